"""What is done with the errors of several layers: Algorithm 1 and the penalty of AT-LR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lsa_lightning.functional.representations import relative_error
from lsa_lightning.utils.checks import integer, mapping, number, sequence, text


def select_mvl(
    layers: Sequence[str],
    mean: Tensor | Sequence[float],
    mu: Tensor | float,
    sigma: Tensor | float,
    eta: float = 0.0,
    top_k: int | None = None,
) -> list[str]:
    r"""Algorithm 1: the Most Vulnerable Layers, those with :math:`CM_l - \mu > \eta\,\sigma`.

    A layer is vulnerable beside others. Where only one is analysed its mean is mu, and it is chosen by no ``eta`` >= 0:
    use ``top_k=1``.

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
    layers = sequence("select_mvl", "layers", layers, text)
    values = sequence("select_mvl", "mean", mean, number)
    rounding = _rounding(mean, mu)
    mu, sigma = (value.item() if isinstance(value, Tensor) else value for value in (mu, sigma))
    mu, sigma = number("select_mvl", "mu", mu), number("select_mvl", "sigma", sigma, low=0)
    if len(values) != len(layers):
        msg = f"expected one mean per layer, got {len(values)} means for {len(layers)} layers"
        raise ValueError(msg)
    ranked = sorted(zip(values, layers, strict=True), key=lambda pair: -pair[0])
    if top_k is not None:
        return [
            name
            for _, name in ranked[
                : integer("select_mvl", "top_k", top_k, low=1, high=len(layers), also=" (the number of layers)")
            ]
        ]
    eta = number("select_mvl", "eta", eta)
    above = eta * sigma + rounding * abs(mu)  # layers that are all alike lie at mu, and not above it
    return [name for value, name in ranked if value - mu > above]


def _rounding(*values: Tensor | Sequence[float] | float) -> float:
    """What means may be off by, relative to them, in the coarsest of these numbers."""
    given = [value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    steps = [torch.finfo(dtype).eps for dtype in given]
    # In half precision means are kept, and not added up.
    return max([1e-12, *(step if step > 1e-4 else 16 * step for step in steps)])


def amplification(mean: Tensor | Sequence[float]) -> list[float]:
    r"""How much each layer makes of what the layer before it lets through, :math:`CM_l / CM_{l-1}`.

    Args:
        mean: :math:`CM_l`, each layer's mean of the measure in the order of execution, shape ``[L]``.

    Returns:
        ``L - 1`` values >= 0, that of the second layer first. Where both layers stand still it is 1, where only the
        layer before does it is infinite.

    Raises:
        ValueError: if a mean is negative or not finite.

    Example:
        >>> amplification([0.5, 1.0, 0.25])
        [2.0, 0.25]

    Source: the criticality of CLAT, Gopal et al. 2024, arXiv 2408.10204, with CM in place of its curvature.
    """
    values = sequence("amplification", "mean", mean, number, low=0)
    still = {True: 1.0, False: math.inf}
    return [value / before if before > 0 else still[value == 0] for before, value in pairwise(values)]


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
    gamma = mapping("layerwise_penalty", "gamma", gamma, number, low=0)
    return torch.stack([g * compare(clean[name], perturbed[name]).mean() for name, g in gamma.items()]).sum()
