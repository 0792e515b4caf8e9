"""Attacking models whose batches are already normalised, in units of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Bounds
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.utils.isolation import lent


class InputSpace:
    r"""The affine map between pixels p and the normalised inputs :math:`x = (p - mean) / std` of a user's batches.

    Args:
        mean: one value per channel (dimension 1 of the batch), or one for all.
        std: the same, each > 0.

    Raises:
        ValueError: if the lengths differ or a std is not positive.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32).flatten()
        self.std = torch.as_tensor(std, dtype=torch.float32).flatten()
        if len(self.mean) != len(self.std) or not (self.std > 0).all():
            msg = f"expected mean and std of equal length with every std > 0, got mean={mean}, std={std}"
            raise ValueError(msg)

    def craft(self, attack: Attack, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Run ``attack`` in pixels against ``model``, which takes normalised inputs; eps and bounds are in pixels."""
        if not x.is_floating_point() or x.ndim < 2:
            msg = f"expected floating inputs [N, ...], got {x.dtype} {tuple(x.shape)}"
            raise ValueError(msg)
        with torch.inference_mode(False):  # the gradient passes through them
            mean, std = self._like(self.mean, x), self._like(self.std, x)
        pixels = _without_rounding(x * std + mean, attack.bounds)

        def of_pixels(p: Tensor) -> Tensor:
            return model((p - mean) / std)

        with lent(model, x.device):  # the attack sees a function, not the module
            perturbed = attack(of_pixels, pixels, y)
        return x + (perturbed - pixels) / std

    def _like(self, values: Tensor, x: Tensor) -> Tensor:
        if len(values) not in (1, x.shape[1]):
            msg = f"expected input_space with 1 or {x.shape[1]} channels for inputs {tuple(x.shape)}, got {len(values)}"
            raise ValueError(msg)
        return values.to(x, copy=True).view(1, -1, *[1] * (x.ndim - 2))


def _without_rounding(pixels: Tensor, bounds: Bounds) -> Tensor:
    """Undo what normalising and back added beyond the bounds; larger excess is left for the attack to report."""
    if bounds is None:
        return pixels
    # float64 batches too may have been normalised in float32.
    slack = 4 * max(torch.finfo(pixels.dtype).eps, torch.finfo(torch.float32).eps) * (bounds[1] - bounds[0])
    clamped = pixels.clamp(*bounds)
    return clamped.where((clamped - pixels).abs() <= slack, pixels)
