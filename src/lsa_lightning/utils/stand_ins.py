"""Layers of torch as they may run while parameters are frozen: the same values, with less work or less kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def stand_in(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What may run in place of a module's ``forward``; None where nothing is known to be better.

    Only for torch's own layers whose ``forward`` nobody has replaced yet.

    Args:
        module: a layer in the mode in which it runs.
    """
    if "forward" in vars(module):
        return None
    if isinstance(module, _BatchNorm) and type(module) in _NORMS:
        fixed = not module.training and module.running_var is not None
        return partial(_fixed_batch_norm, module) if fixed else None
    return _halving_pool if type(module) is nn.MaxPool2d and _halves(module) else None


def _fixed_batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]
    y: Tensor = _FixedBatchNorm.apply(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    return y


class _FixedBatchNorm(torch.autograd.Function):
    """Batch norm with fixed statistics and weights: a map whose slope, one number per channel, is all that is kept.

    Its values are those of ``torch.nn.functional.batch_norm`` to the bit, its gradients but for rounding.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, variance, weight, _, eps = inputs
        slope = (variance + eps).rsqrt()
        slope = slope if weight is None else slope * weight
        ctx.save_for_backward(slope)
        ctx.save_for_forward(slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (slope,) = gradients, ctx.saved_tensors
        shape = (1, -1, *[1] * (gradient.ndim - 2))
        return (gradient * slope.view(shape)).to(gradient.dtype), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        tangent, (slope,) = tangents[0], ctx.saved_tensors
        moved: Tensor = tangent * slope.view(1, -1, *[1] * (tangent.ndim - 2)).to(tangent.dtype)
        return moved


def _halves(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the largest of each 2 x 2 values."""
    sizes = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    plain = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
    return plain == [(2, 2), (2, 2), (0, 0), (1, 1)] and not pool.ceil_mode and not pool.return_indices


def _halving_pool(x: Tensor) -> Tensor:
    """On a CPU, where torch goes value by value through images that lie channel after channel."""
    if x.device.type != "cpu" or x.ndim != 4 or not x.is_contiguous() or min(x.shape[2:]) < 2:
        return F.max_pool2d(x, 2)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.maximum(*_pairs(torch.maximum(*_pairs(x, -2)), -1))
    largest: Tensor = _HalvingPool.apply(x)[0]
    return largest


class _HalvingPool(torch.autograd.Function):
    """The largest of each 2 x 2 values, and its place; values and gradients are torch's to the bit, but for NaN's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        top, bottom = _pairs(x, -2)
        left, right = _pairs(torch.maximum(top, bottom), -1)
        below_left, below_right = _pairs(bottom > top, -1)
        # Of equal values torch takes the first, row by row.
        is_right = (right > left) | ((right == left) & (below_left > below_right))
        is_below = below_left ^ (is_right & (below_left ^ below_right))
        height, width = x.shape[-2:]
        corners = 2 * (width * torch.arange(height // 2)[:, None] + torch.arange(width // 2))
        return torch.maximum(left, right), corners + is_below.short().mul_(width).add_(is_right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, places = ctx.saved_tensors
        whole, pool = torch.ops.aten.max_pool2d_with_indices_backward, ([2, 2], [2, 2], [0, 0], [1, 1])
        gradient: Tensor = whole(gradients[0], x, *pool, False, places)
        return gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return tangent.flatten(-2).gather(-1, places.flatten(-2)).view_as(places), None


def _pairs(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """The values of even and of odd number along a dimension; an odd last one is left out."""
    pairs: Tensor = x.narrow(dim, 0, x.shape[dim] // 2 * 2).unflatten(dim, (-1, 2))  # type: ignore[no-untyped-call]
    return pairs.unbind(dim)
