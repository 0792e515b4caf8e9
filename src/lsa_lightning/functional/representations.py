"""Comparison of a clean and a perturbed representation, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsa_lightning.utils.checks import instance
from lsa_lightning.utils.devices import runs_ahead

NORM_FLOOR = 1e-36
"""Norms below this count as 0: they are nothing but zeros, and their reciprocal leaves the range of float32."""

_ORDINARY = (1e-15, 1e15)
"""Norms between these are right without scaling: no square that counts left the range of float32."""


def relative_error(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""Relative error of each sample's representation.

    .. math:: CM(\phi(x), \phi(\hat x)) = \|\phi(x) - \phi(\hat x)\|_F / \|\phi(x)\|_F

    Norms are computed in float32 at least, and right from 1e-30 to 1e30. Where the clean norm is 0 (a dead layer) the
    ratio is undefined; it is then taken as 0 if the representation did not move and as 1 if it did, both without a
    gradient.

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value >= 0 per sample, shape ``[N]``.

    Raises:
        ValueError: if the shapes differ, there is no sample dimension or nothing in it.

    Example:
        >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
        tensor([0.2000])

    Source: arXiv 2202.02626, the comparison measure of its eq. (12).
    """
    error: Tensor = _RelativeError.apply(*as_rows(clean, perturbed))
    return error


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
        ValueError: if the shapes differ, there is no sample dimension or nothing in it.

    Example:
        >>> centered_relative_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.5]]))
        tensor([0.0000, 0.5000])
    """
    clean, perturbed = as_rows(clean, perturbed)
    spread = _norm(_centered(clean))
    return _ratio(_norm(clean - perturbed), spread, undefined=torch.ones_like(spread))


def centered_relative_error_over_batch(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""The whole batch as one tensor: one Frobenius norm over all samples on both sides of the fraction.

    .. math:: \|\phi(x) - \phi(\hat x)\|_F / \|\phi(x) - \bar\phi\|_F

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``; the mean :math:`\bar\phi` is taken over its first dimension.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        A scalar >= 0; 1 where the layer is constant over the batch.

    Raises:
        ValueError: if the shapes differ, there is no sample dimension or nothing in it.

    Example:
        >>> centered_relative_error_over_batch(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [4.0]]))
        tensor(0.7071)
    """
    clean, perturbed = as_rows(clean, perturbed)
    distance, spread = (_norm(rows.reshape(1, -1)) for rows in (clean - perturbed, _centered(clean)))
    return _ratio(distance, spread, undefined=torch.ones_like(spread))[0]


def relative_squared_error(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""Each sample's squared distance over the mean squared distance of the batch from its own mean.

    .. math::
        N\, \|\phi(x_n) - \phi(\hat x_n)\|_F^2 / \textstyle\sum_m \|\phi(x_m) - \bar\phi\|_F^2

    Its mean over the batch is the share of the layer's variance that the perturbation replaces,
    :math:`R(a, b) = \overline{\|a - b\|^2} / \overline{\|a - \bar a\|^2}`: no shift of all samples lowers it, as a
    growing bias lowers :func:`relative_error`, and a layer that is constant over the batch scores 1. Its gradient falls
    to 0 with the distance. Nothing is detached. A batch of one has no spread: its value is 1.

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``; the mean :math:`\bar\phi` is taken over its first dimension.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value >= 0 per sample, shape ``[N]``.

    Raises:
        ValueError: if the shapes differ, there is no sample dimension or nothing in it.

    Example:
        >>> relative_squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.5]]))
        tensor([0.0000, 0.2500])

    Source: the relative squared error of regression, with the clean representation as what is predicted.
    """
    clean, perturbed = as_rows(clean, perturbed)
    spread = _norm(_centered(clean).reshape(1, -1)) / math.sqrt(len(clean))
    return _ratio(_norm(clean - perturbed), spread, undefined=torch.ones_like(clean[:, 0])).square()


def relative_spread(representation: Tensor) -> Tensor:
    r"""How much of a layer's output differs from sample to sample.

    .. math:: \|\phi(x) - \bar\phi\|_F / \|\phi(x)\|_F

    Args:
        representation: :math:`\phi(x)`, shape ``[N, ...]``.

    Returns:
        A scalar in [0, 1]; 0 where the layer is constant over the batch, or dead.

    Example:
        >>> relative_spread(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor(0.7071)
    """
    rows, _ = as_rows(representation, representation)
    spread, norm = (_norm(part.reshape(1, -1)) for part in (_centered(rows), rows))
    return _ratio(spread, norm, undefined=torch.zeros_like(norm))[0].clamp_max(1)


def cosine_distance(clean: Tensor, perturbed: Tensor) -> Tensor:
    r"""One minus the cosine of the angle between each sample's two representations.

    .. math:: 1 - \langle\phi(x), \phi(\hat x)\rangle / (\|\phi(x)\| \|\phi(\hat x)\|)

    Args:
        clean: :math:`\phi(x)`, shape ``[N, ...]``.
        perturbed: :math:`\phi(\hat x)`, the same shape.

    Returns:
        One value in [0, 2] per sample, shape ``[N]``: 0 where both are zero vectors, 1 where one is; these without a
        gradient.

    Raises:
        ValueError: if the shapes differ, there is no sample dimension or nothing in it.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([1.])
    """
    clean, perturbed = as_rows(clean, perturbed)
    dead = [_norm(rows.detach()) <= NORM_FLOOR for rows in (clean, perturbed)]
    # Half the squared distance of the unit vectors, because 1 - cos has lost its digits where the angle is small.
    distance = 0.5 * (_unit(clean) - _unit(perturbed)).square().sum(dim=1)
    defined = ~(dead[0] | dead[1]) | ~distance.isfinite()
    return distance.clamp_max(2.0).where(defined, (dead[0] ^ dead[1]).to(distance))


def as_rows(clean: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten both representations to ``[N, D]`` in float32 or wider, checking that they belong together."""
    instance("as_rows", "clean", clean, Tensor)
    instance("as_rows", "perturbed", perturbed, Tensor)
    if clean.dtype == torch.bool or clean.is_complex():
        msg = f"expected representations of real numbers, got {clean.dtype}"
        raise ValueError(msg)
    if clean.shape != perturbed.shape:
        msg = f"expected representations of equal shape, got {tuple(clean.shape)} and {tuple(perturbed.shape)}"
        raise ValueError(msg)
    if clean.ndim == 0 or clean.numel() == 0:
        got = "a scalar" if clean.ndim == 0 else f"the empty shape {tuple(clean.shape)}"
        msg = f"expected representations of shape [N, ...], got {got}"
        raise ValueError(msg)
    wide = torch.promote_types(clean.dtype, torch.float32)
    return clean.reshape(len(clean), -1).to(wide), perturbed.reshape(len(clean), -1).to(wide)


def _centered(rows: Tensor) -> Tensor:
    # From the first row on, so that equal rows give exactly 0, however their mean is rounded.
    moved = rows - rows[:1]
    return moved - moved.mean(0, keepdim=True)


def _scale(rows: Tensor) -> Tensor:
    """The power of two at each row's largest entry, ``[N, 1]``: divided by it, no square overflows or vanishes.

    A power of two, because dividing by it rounds nothing. It has no gradient.
    """
    rows = rows.detach()  # two reductions, because an infinity norm takes ten times as long on a CPU
    largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))
    return largest.log2().floor().exp2().where(largest > 0, 1.0)


def _lengths(rows: Tensor) -> Tensor:
    """Euclidean norm of each row, ``[N]``."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    # Scaling takes most of the time; a GPU's host would wait for the answer whether it can be left out.
    if not runs_ahead(rows.device) and bool(((lengths > _ORDINARY[0]) & (lengths < _ORDINARY[1])).all()):
        return lengths
    scale = _scale(rows)
    scaled: Tensor = scale[:, 0] * torch.linalg.vector_norm(rows / scale, dim=1)
    return scaled


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = _RowNorm.apply(rows)
    return norm


class _RowNorm(torch.autograd.Function):
    """Euclidean norm of each row; by hand, because autograd would go through the scaling once more."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        lengths = _lengths(rows)
        ctx.save_for_backward(rows, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows, lengths = ctx.saved_tensors
        return _unit_times(rows, lengths, gradient)


class _RelativeError(torch.autograd.Function):
    """The ratio of two norms; by hand, because it is taken of every penalised layer in each step of training.

    Nothing is kept but what is given, and the gradients are made in place.
    """

    @staticmethod
    def forward(ctx: Any, clean: Tensor, perturbed: Tensor) -> Tensor:
        distance, length = _lengths(clean - perturbed), _lengths(clean)
        ctx.save_for_backward(clean, perturbed, distance, length)
        return _ratio(distance, length, undefined=(distance > NORM_FLOOR).to(distance))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        clean, perturbed, distance, length = ctx.saved_tensors
        again = torch.is_grad_enabled()  # second derivatives are wanted, which go through the norms too
        if again:
            distance, length = _norm(clean - perturbed), _norm(clean)
        none = torch.zeros_like(gradient)
        slope, ratio = _ratio(gradient, length, undefined=none), _ratio(distance, length, undefined=none)
        into_perturbed = _unit_times(perturbed - clean, distance, slope, in_place=not again)
        into_clean = _unit_times(clean, length, -gradient * _ratio(ratio, length, undefined=none))
        return into_clean - into_perturbed if again else into_clean.sub_(into_perturbed), into_perturbed


def _unit_times(rows: Tensor, lengths: Tensor, factors: Tensor, *, in_place: bool = False) -> Tensor:
    """Each row at length 1, or 0 where it is 0, times its factor.

    In two steps, as length and factor together may leave the range of float32.
    """
    divisors = lengths.where(lengths > 0, 1.0)[:, None]
    units = rows.div_(divisors) if in_place else rows / divisors
    return units.mul_(factors[:, None])


def _unit(rows: Tensor) -> Tensor:
    scaled = rows / _scale(rows)
    # A row of zeros stays one; the length of any other is at least 1 here.
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(0.5)
    return scaled / length


def _ratio(distance: Tensor, scale: Tensor, undefined: Tensor) -> Tensor:
    alive = ~(scale <= NORM_FLOOR)  # NaN is not 0 and comes out again
    return (distance / scale.where(alive, 1.0)).where(alive | ~distance.isfinite(), undefined)
