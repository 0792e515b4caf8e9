"""Wrappers that mask the gradient of an honest network, each in a way of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Wrapper(nn.Module):
    """Runs ``net``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class SaturatedLogits(Wrapper):
    """Logits so large that the cross-entropy underflows."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


class SaturatedProbabilities(Wrapper):
    """Probabilities of exactly 0 and 1, moved by a half: as they are, they would be refused."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return ((1e4 * logits).sigmoid() if logits.shape[-1] == 1 else (1e4 * logits).softmax(dim=1)) - 0.5


class QuantisedInput(Wrapper):
    """Inputs rounded to multiples of ``step``."""

    def __init__(self, net: nn.Module, step: float) -> None:
        super().__init__(net)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x / self.step).round() * self.step)


class StochasticInput(Wrapper):
    """Noise on the input, in eval mode too."""

    def __init__(self, net: nn.Module, std: float) -> None:
        super().__init__(net)
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.std * torch.randn_like(x))


class Detached(Wrapper):
    """A step through which no gradient flows at all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class HardLabels(Wrapper):
    """A step function at the end: one-hot logits, smooth in name only."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        hard = logits.sign() if logits.shape[-1] == 1 else logits.detach().argmax(1).unsqueeze(1) == _classes(logits)
        return hard.to(logits) + 0 * logits


class TinyGradient(Wrapper):
    """Gradients clipped to [-1e-40, 1e-40]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_ChangeGradient.apply(x, "tiny"))


class OneSidedGradient(Wrapper):
    """Gradients clipped to positive values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_ChangeGradient.apply(x, "one-sided"))


class ShatteredGradient(Wrapper):
    """Gradients whose signs jump from point to point."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_ChangeGradient.apply(x, "shattered"))


class RightAtTheDataAlone(Wrapper):
    """Gradients that point backwards wherever the input is no multiple of 1/255."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_ChangeGradient.apply(x, "right at the data alone"))


class RoundsLargeDeviations(Wrapper):
    """Inputs go to the nearest multiple of ``step``, but only where they are farther from it than ``free``."""

    def __init__(self, net: nn.Module, step: float, free: float) -> None:
        super().__init__(net)
        self.step = step
        self.free = free

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x / self.step).round() * self.step
        far = (x - rounded).abs().flatten(1).amax(1) > self.free
        return super().forward(rounded.where(far.view(-1, *[1] * (x.ndim - 1)), x))


class _ChangeGradient(torch.autograd.Function):
    """The identity, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        if ctx.kind == "tiny":
            return gradient.clamp(-1e-40, 1e-40), None
        if ctx.kind == "one-sided":
            return gradient.clamp(min=0), None
        if ctx.kind == "shattered":
            return gradient * (1e6 * x).sin().sign(), None
        units = 255 * x.flatten(1)
        at_data = ((units - units.round()).abs() < 1e-3).all(1).view(-1, *[1] * (x.ndim - 1))
        return gradient.where(at_data, -gradient), None


def _classes(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[1], device=logits.device)
