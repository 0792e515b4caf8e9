"""Pure functions: comparison of representations, Algorithm 1, the penalty of AT-LR, scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NORM_FLOOR = 1e-12
"""Norms below this count as 0, as in :func:`torch.nn.functional.normalize`."""


def relative_error(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""Relative error of each sample's representation.

    .. math:: CM(\phi(x), \phi(\hat x)) = \|\phi(x) - \phi(\hat x)\|_F / \|\phi(x)\|_F

    Norms are computed in float32 at least. Where the clean norm is 0 (a dead layer) the ratio is undefined; it is then
    taken as 0 if the representation did not move and as 1 if it did, both without a gradient.

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value >= 0 per sample, shape ``[N]``.

    Raises:
        ValueError: if the shapes differ or there is no sample dimension.

    Example:
        >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
        tensor([0.2000])

    Source: arXiv 2202.02626, the comparison measure of its eq. (12).
    """
    clean, perturbed = as_rows(clean, perturbed)
    return _ratio(_norm(clean - perturbed), _norm(clean))


def centered_relative_error(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""Relative error against the spread of the batch instead of the norm.

    .. math:: \|\phi(x_n) - \phi(\hat x_n)\|_F / \|\phi(x_n) - \tfrac1N \textstyle\sum_m \phi(x_m)\|_F

    A layer whose output is constant over the batch has relative error 0; here its value is 1, so that a regularizer
    cannot be satisfied by a layer that stopped looking at its input. A batch of one has no spread: its value is 1.

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``; the mean is taken over its first dimension.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value >= 0 per sample, shape ``[N]``.

    Raises:
        ValueError: if the shapes differ or there is no sample dimension.

    Example:
        >>> centered_relative_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.5]]))
        tensor([0.0000, 0.5000])
    """
    clean, perturbed = as_rows(clean, perturbed)
    spread = _norm(clean - clean.mean(0, keepdim=True))
    return _ratio(_norm(clean - perturbed), spread).where(spread > NORM_FLOOR, 1.0)


def cosine_distance(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""One minus the cosine of the angle between each sample's two representations.

    .. math:: 1 - \langle\phi(x), \phi(\hat x)\rangle / (\|\phi(x)\| \|\phi(\hat x)\|)

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value in [0, 2] per sample, shape ``[N]``: 0 where both are zero vectors, 1 where one is.

    Raises:
        ValueError: if the shapes differ or there is no sample dimension.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([1.])
    """
    clean, perturbed = as_rows(clean, perturbed)
    both_dead = (_norm(clean) <= NORM_FLOOR) & (_norm(perturbed) <= NORM_FLOOR)
    # Clamped: rounding can put the cosine of parallel vectors above 1.
    distance: Tensor = (1.0 - F.cosine_similarity(clean, perturbed, dim=1, eps=NORM_FLOOR)).clamp(0.0, 2.0)
    return distance.where(~both_dead, 0.0)


def as_rows(clean: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten both representations to ``[N, D]`` in float32 or wider, checking that they belong together."""
    if clean.shape != perturbed.shape:
        msg = f"expected representations of equal shape, got {tuple(clean.shape)} and {tuple(perturbed.shape)}"
        raise ValueError(msg)
    if clean.ndim == 0:
        msg = "expected representations of shape [N, ...], got a scalar"
        raise ValueError(msg)
    wide = torch.promote_types(clean.dtype, torch.float32)
    return clean.reshape(len(clean), -1).to(wide), perturbed.reshape(len(clean), -1).to(wide)


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norm


def _ratio(distance: Tensor, scale: Tensor) -> Tensor:
    # A dead row is divided by its own distance: 1 where it moved, and 0/1 where it did not.
    safe = scale.where(scale > NORM_FLOOR, distance)
    return distance / safe.where(safe > NORM_FLOOR, 1.0)


def select_mvl(
    layers: Sequence[str],
    mean: Tensor | Sequence[float],
    mu: Tensor | float,
    sigma: Tensor | float,
    eta: float = 0.0,
    top_k: int | None = None,
) -> list[str]:
    r"""Algorithm 1: the Most Vulnerable Layers, those with :math:`CM_l - \mu > \eta\,\sigma`.

    Args:
        layers: L layer names.
        mean: :math:`CM_l`, each layer's mean relative error over the samples, shape ``[L]``.
        mu: mean over samples and layers, eq. (12).
        sigma: population standard deviation over samples and layers, eq. (12). It contains the spread between samples,
            so a large ``eta`` leaves the list empty: no layer's mean is that far from ``mu``.
        eta: threshold in units of sigma, any finite number; larger is stricter.
        top_k: if given, ``eta`` is not used and the ``top_k`` layers of largest mean are returned.

    Returns:
        Names in order of falling mean; layers of equal mean keep their order of execution.

    Raises:
        ValueError: if the lengths differ, ``eta`` is not finite, or ``top_k`` is not in 1..L.

    Example:
        >>> select_mvl(["a", "b", "c"], [0.7, 0.8, 0.99], mu=0.83, sigma=0.2)
        ['c']

    Source: arXiv 2202.02626, Algorithm 1.
    """
    values = torch.as_tensor(mean, dtype=torch.float64).tolist()
    if len(values) != len(layers):
        msg = f"expected one mean per layer, got {len(values)} means for {len(layers)} layers"
        raise ValueError(msg)
    ranked = sorted(zip(values, layers, strict=True), key=lambda pair: -pair[0])
    if top_k is not None:
        if not 1 <= top_k <= len(layers):
            msg = f"expected top_k in 1..{len(layers)} (the number of layers), got {top_k}"
            raise ValueError(msg)
        return [name for _, name in ranked[:top_k]]
    if not abs(eta) < float("inf"):
        msg = f"expected a finite eta, got {eta}"
        raise ValueError(msg)
    return [name for value, name in ranked if value - float(mu) > eta * float(sigma)]


def layerwise_penalty(
    clean: Mapping[str, Tensor],
    perturbed: Mapping[str, Tensor],
    gamma: Mapping[str, float],
    compare: Callable[[Tensor, Tensor], Tensor] = relative_error,
) -> Tensor:
    r"""The penalty of AT-LR, :math:`LR = \sum_{l} \gamma_l\, CM(\phi_l(x), \phi_l(\hat x))`.

    The gradient flows into both representations.

    Args:
        clean: :math:`\phi_l(x)` by layer name, each ``[N, ...]``.
        perturbed: :math:`\phi_l(\hat x)` by layer name, the same shapes.
        gamma: :math:`\gamma_l` by layer name: the layers that are summed over.
        compare: the measure; what it returns per sample is averaged over the samples.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: if ``gamma`` is empty.
        KeyError: if a layer of ``gamma`` has no representation.

    Example:
        >>> phi, phi_hat = {"fc1": torch.tensor([[3.0, 4.0]])}, {"fc1": torch.tensor([[3.0, 3.0]])}
        >>> layerwise_penalty(phi, phi_hat, {"fc1": 0.5})
        tensor(0.1000)

    Source: arXiv 2202.02626, Algorithm 3.
    """
    if not gamma:
        msg = "expected at least one layer in gamma, got none"
        raise ValueError(msg)
    return torch.stack([g * compare(clean[name], perturbed[name]).mean() for name, g in gamma.items()]).sum()


def robustness_generalization_score(accuracies: Iterable[float]) -> float:
    """R&G: the sum of the accuracies over the columns of eps, clean included.

    Args:
        accuracies: accuracies in percent, each in [0, 100], one per eps (eps = 0 is the clean accuracy).

    Returns:
        The sum, in [0, 100 * number of columns].

    Raises:
        ValueError: if there is no accuracy or one lies outside [0, 100].

    Example:
        >>> round(robustness_generalization_score([98.82, 82.1, 47.2, 17.87, 6.96, 4.25]), 2)
        257.2

    Source: arXiv 2202.02626, the R&G column of its Tables 2 to 4.
    """
    values = [float(a) for a in accuracies]
    if not values or not all(0.0 <= a <= 100.0 for a in values):
        msg = f"expected at least one accuracy, each in percent in [0, 100], got {values}"
        raise ValueError(msg)
    return math.fsum(values)


def wilson_interval(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's score interval of a share, in percent.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Unlike :math:`\hat p \pm z\,\mathrm{se}` it stays inside [0, 100] and does not shrink to a point at 0 or all hits.

    Args:
        hits: number of hits, 0 to ``samples``.
        samples: n >= 1.
        confidence: coverage in (0, 1).

    Returns:
        Its ends, in [0, 100].

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> tuple(round(end, 2) for end in wilson_interval(95, 100))
        (88.82, 97.85)

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if samples < 1 or not 0 <= hits <= samples or not 0 < confidence < 1:
        msg = (
            f"expected 0 <= hits <= samples, samples >= 1 and confidence in (0, 1), got {hits}, {samples}, {confidence}"
        )
        raise ValueError(msg)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / samples
    center = share + z**2 / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    scale = 100 / (1 + z**2 / samples)
    low = scale * (center - half) if hits > 0 else 0.0  # where rounding would leave a trace of the exact 0 or 100
    high = scale * (center + half) if hits < samples else 100.0
    return low, high


def classification_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of a classifier with one logit (binary, labels 0/1 of any dtype) or with one logit per class.

    Computed from the differences to the label's logit, so that the gradient does not vanish where the predicted
    probability of the label rounds to 1: a gradient of exactly 0 would stop an attack on a confident network.

    Args:
        logits: ``[N]`` or ``[N, 1]`` (binary), or ``[N, C]``.
        labels: ``[N]`` (or ``[N, 1]`` in the binary case).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``[N]`` for ``"none"``; computed in float32 at least.

    Example:
        >>> classification_loss(torch.zeros(2, 1), torch.tensor([0, 1]))
        tensor(0.6931)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_binary(logits):
        z, y = logits.flatten(), labels.flatten().to(logits)
        losses = y * F.softplus(-z) + (1 - y) * F.softplus(z)
    else:
        index = labels.long().unsqueeze(1)
        others = (logits - logits.gather(1, index)).scatter(1, index, -torch.inf)
        losses = F.softplus(others.logsumexp(dim=1))
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def is_binary(logits: Tensor) -> bool:
    """Whether ``logits`` (``[N]``, ``[N, 1]`` or ``[N, C]``) hold one logit per sample."""
    return logits.ndim == 1 or logits.shape[-1] == 1


def predicted_labels(logits: Tensor) -> Tensor:
    """The predicted class of each sample, int64 of shape ``[N]``; logit > 0 is class 1 in the binary case.

    Example:
        >>> predicted_labels(torch.tensor([[-1.0], [2.0]]))
        tensor([0, 1])
    """
    return (logits.flatten() > 0).long() if is_binary(logits) else logits.argmax(dim=1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Class log-probabilities ``[N, C]``; one logit z becomes the two classes log sigmoid(-z) and log sigmoid(z).

    Example:
        >>> log_probabilities(torch.zeros(1, 1)).exp()
        tensor([[0.5000, 0.5000]])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_binary(logits):
        z = logits.flatten()
        return torch.stack([F.logsigmoid(-z), F.logsigmoid(z)], dim=1)
    return F.log_softmax(logits, dim=1)


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    r"""Per-sample :math:`KL(p \,\|\, q)` with p from ``target_logits`` and q from ``logits``, shape ``[N]``.

    Both sides are log-probabilities, so a probability that underflows to 0 gives 0 and not NaN.

    Example:
        >>> kl_divergence(torch.tensor([[200.0, 0.0]]), torch.tensor([[200.0, 0.0]]))
        tensor([0.])
    """
    p, q = log_probabilities(target_logits), log_probabilities(logits)
    divergence: Tensor = F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)
    return divergence
