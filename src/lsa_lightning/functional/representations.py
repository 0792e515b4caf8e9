"""Comparison of a clean and a perturbed representation, sample by sample."""

from __future__ import annotations

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
