"""The activation of model A."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ELU(nn.ELU):
    r""":math:`\max(x, e^{\min(x, 0)} - 1)`, torch's ELU up to rounding (1e-7), at a fifth of its time on a CPU.

    Half of the time of training and evaluating model A went into torch's ``expm1``, which takes ten times as long as
    ``exp`` there. Elsewhere than in float32 on a CPU, and compiled, it is torch's own.

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 2.0])
        >>> torch.allclose(ELU()(x), nn.ELU()(x), atol=1e-7)
        True
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The activation of each entry."""
        if x.dtype is not torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        outputs: Tensor = _ByExp.apply(x)
        return outputs


class _ByExp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.maximum(x, x.clamp(max=0).exp_().sub_(1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors
        slope: Tensor = (outputs + 1).clamp(max=1) * gradient
        return slope
