"""Gradients that float16 neither rounds to 0 nor overflows.

The smallest number of float16 is 6e-8, which the cross-entropy's gradient falls below wherever a network is sure. Hence
a backward pass through float16 starts from numbers of ordinary size, and what comes out is scaled back in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import per_sample

_SCALES = (2.0**8, 1.0, 2.0**-8)
"""The sizes at which a backward pass starts; the next one where numbers overflow on the way."""

_SMALLEST = 2.0**-149
"""The smallest float32 number above 0."""

_INVERTIBLE = 2.0**-110
"""A small number whose inverse, times each of the scales, is a float32 number too."""


def in_float16(*tensors: Tensor) -> bool:
    """Whether one of ``tensors`` is float16, or autocasting to it is on where they are.

    Example:
        >>> in_float16(torch.zeros(1)), in_float16(torch.zeros(1), torch.zeros(1, dtype=torch.float16))
        (False, True)
    """
    device = tensors[0].device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return autocast or any(tensor.dtype == torch.float16 for tensor in tensors)


def input_gradient(
    logits: Tensor, x: Tensor, loss: Callable[[Tensor], Tensor], *, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Losses, and the gradient of their sum with respect to ``x``.

    Args:
        logits: the model's output for ``x``, with its graph.
        x: inputs ``[N, ...]`` that require a gradient.
        loss: maps logits to losses, a scalar or ``[N]``.
        keep: whether the graph is needed again.

    Returns:
        The losses, detached, and the gradient: in the dtype of ``x``, or float32 if the model computes in float16; None
        if the losses do not depend on ``x`` through differentiable operations.

    Example:
        >>> x = torch.ones(1, 2, dtype=torch.float16, requires_grad=True)
        >>> input_gradient(3 * x, x, lambda logits: 1e-9 * logits.sum(1))[1]
        tensor([[3.0000e-09, 3.0000e-09]])
    """
    if not in_float16(x, logits):
        losses = loss(logits)
        if not losses.requires_grad:
            return losses.detach(), None
        return losses.detach(), torch.autograd.grad(losses.sum(), x, retain_graph=keep, allow_unused=True)[0]
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
    losses = loss(wide)
    if not (logits.requires_grad and losses.requires_grad):
        return losses.detach(), None
    return losses.detach(), pull_back(logits, x, torch.autograd.grad(losses.sum(), wide)[0])


def pull_back(logits: Tensor, x: Tensor, weights: Tensor) -> Tensor | None:
    """Gradient with respect to ``x`` of the sum of ``weights`` times ``logits``, through a model in float16.

    Each sample's weights are scaled to ordinary size, as no sample influences another.

    Args:
        logits: ``[N, ...]``, with its graph.
        x: inputs ``[N, ...]`` that require a gradient.
        weights: of the shape of ``logits``, in float32.

    Returns:
        The gradient in float32; None if ``logits`` do not depend on ``x``.
    """
    size = weights.reshape(len(weights), -1).abs().amax(dim=1).clamp_min(_SMALLEST)
    ordinary = weights / per_sample(size, weights)
    gradient = torch.full_like(x, torch.nan, dtype=torch.float32)
    for scale in _SCALES:
        found = torch.autograd.grad(logits, x, (scale * ordinary).to(logits), retain_graph=True, allow_unused=True)[0]
        if found is None:
            return None
        gradient = gradient.where(gradient.isfinite(), found.float() / scale * per_sample(size, x))
        if bool(gradient.isfinite().all()):
            break
    return gradient


def weight_gradients(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of a scalar ``loss`` with respect to ``weights``: float32 for float16, and None for unused ones."""
    if not in_float16(*weights):
        return list(torch.autograd.grad(loss, weights, allow_unused=True))
    # The gradient of a small cross-entropy is about as small as itself.
    size = loss.detach().abs().clamp(_INVERTIBLE, 1.0)
    gradients: list[Tensor | None] = []
    for scale in _SCALES:
        found = torch.autograd.grad(loss / size * scale, weights, retain_graph=True, allow_unused=True)
        gradients = [None if gradient is None else gradient.float() / scale * size for gradient in found]
        if all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
            break
    return gradients
