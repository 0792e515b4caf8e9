"""Logits, labels and probabilities of classifiers with one logit or one per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lsa_lightning.utils.checks import choice


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

    Raises:
        ValueError: if ``reduction`` is another.

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
    reduced: Tensor = _REDUCTIONS[choice("classification_loss", "reduction", reduction, _REDUCTIONS)](losses)
    return reduced


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "sum": Tensor.sum, "none": lambda each: each}


def is_binary(logits: Tensor) -> bool:
    """Whether ``logits`` (``[N]``, ``[N, 1]`` or ``[N, C]``) hold one logit per sample."""
    return logits.ndim == 1 or logits.shape[-1] == 1


def count_classes(logits: Tensor) -> int:
    """Number of classes that ``logits`` (``[N]``, ``[N, 1]`` or ``[N, C]``) tell apart; one logit tells two."""
    return 2 if is_binary(logits) else logits.shape[1]


def are_class_labels(logits: Tensor, labels: Tensor) -> bool:
    """Whether labels can be classes, rather than numbers, or several labels for each sample.

    Example:
        >>> logits = torch.zeros(2, 3)
        >>> are_class_labels(logits, torch.tensor([0.0, 2.0])), are_class_labels(logits, torch.ones(2, 3))
        (True, False)
    """
    if logits.ndim > 1 and logits.shape[1] > 1 and labels.shape == logits.shape:
        return False
    return not labels.is_floating_point() or bool((labels == labels.round()).all())


def check_classes(logits: Tensor, labels: Tensor) -> None:
    """Raise a ValueError unless ``logits`` are finite scores of classes, and ``labels`` one class per sample.

    Labels may have any dtype. Those that are no classes (fractions, soft, one-hot and multi-label ones, segmentation
    masks) are named.

    Args:
        logits: ``[N]`` or ``[N, 1]`` (binary), or ``[N, C]``.
        labels: ``[N]`` (or ``[N, 1]`` in the binary case) in 0..C-1.

    Example:
        >>> check_classes(torch.zeros(2, 3), torch.tensor([0.5, 2.0]))
        Traceback (most recent call last):
        ValueError: expected labels that are classes, got fractions such as 0.5, as regression targets or smoothed ...
    """
    n = len(labels)
    if logits.ndim not in (1, 2) or len(logits) != n:
        hint = f", as for segmentation; {_NO_CLASSES}" if logits.ndim > 2 else ""
        msg = f"expected the model to return logits of shape [{n}], [{n}, 1] or [{n}, C], got {(*logits.shape,)}{hint}"
        raise ValueError(msg)
    if not logits.is_floating_point():
        msg = f"expected floating logits, got {logits.dtype}"
        raise ValueError(msg)
    check_finite(logits)
    if labels.numel() != n or (labels.ndim != 1 and not is_binary(logits)):
        msg = f"expected one label per sample, shape [{n}], got {tuple(labels.shape)}, {_kind(labels)}; {_NO_CLASSES}"
        raise ValueError(msg)
    fractions = labels[labels - labels.round() != 0] if labels.is_floating_point() else labels[:0]
    fractions = fractions[fractions.isfinite()]
    if len(fractions) > 0:
        got = f"fractions such as {float(fractions[0]):.4g}, as regression targets or smoothed labels are"
        msg = f"expected labels that are classes, got {got}; {_NO_CLASSES}"
        raise ValueError(msg)
    check_label_range(logits.shape, torch.stack(labels.aminmax()).tolist())


def check_finite(logits: Tensor) -> None:
    """Raise a ValueError unless all ``logits`` are finite: of a NaN, ``argmax`` makes a class.

    Example:
        >>> check_finite(torch.tensor([[0.5, torch.nan]]))
        Traceback (most recent call last):
        ValueError: expected finite logits, got NaN or infinite ones
    """
    if not logits.isfinite().all():
        msg = "expected finite logits, got NaN or infinite ones"
        raise ValueError(msg)


def check_label_range(shape: Sequence[int], extremes: Sequence[float]) -> None:
    """Raise a ValueError unless labels from the first to the last of ``extremes`` fit logits of such a shape.

    Example:
        >>> check_label_range((8, 3), (0, 3))
        Traceback (most recent call last):
        ValueError: expected labels in 0..2 for logits of shape (8, 3), got 0..3
    """
    low, high = extremes
    last = 1 if len(shape) == 1 or shape[-1] == 1 else shape[1] - 1
    if not (low >= 0 and high <= last):
        msg = f"expected labels in 0..{last} for logits of shape {tuple(shape)}, got {low:g}..{high:g}"
        raise ValueError(msg)


_NO_CLASSES = "attacks take a loss of your own, loss_fn= of FGSM, FFGSM, PGD and APGD; accuracy needs classes"


def _kind(labels: Tensor) -> str:
    """What labels of such a shape are."""
    if labels.ndim > 2:
        return "as segmentation masks have"
    if labels.ndim < 2 or labels.shape[1] == 1:
        return "which is one too many dimensions" if labels.ndim == 2 else "another number"
    one_each = bool(((labels.float().sum(dim=1) - 1).abs() < 1e-3).all()) and bool((labels >= 0).all())
    return "which are soft or one-hot labels" if one_each else "which are several targets, as multi-label ones"


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

    Both sides are log-probabilities, so a probability of 0, underflown or of a logit of -inf, gives 0 and not NaN.

    Example:
        >>> kl_divergence(torch.tensor([[200.0, 0.0]]), torch.tensor([[200.0, 0.0]]))
        tensor([0.])
    """
    p, q = log_probabilities(target_logits), log_probabilities(logits)
    impossible = p.isneginf()
    p, q = p.masked_fill(impossible, 0.0), q.masked_fill(impossible, 0.0)
    divergence: Tensor = F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)
    return divergence
