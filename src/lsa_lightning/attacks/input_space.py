"""Attacking models whose batches are already normalised, in units of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks.balls import Ball, Bounds, cast_towards
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.attacks.composite import CompositeAttack
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.utils.checks import function, instance, number, refuse, sequence
from lsa_lightning.utils.precision import widest_float


class InputSpace:
    r"""The affine map between pixels p and the normalised inputs :math:`x = (p - mean) / std` of a user's batches.

    Called with an attack, it gives the same attack for normalised inputs, whose eps and bounds stay in pixels. Pixels
    are float32 at least, and what becomes of them in the dtype of the inputs is rounded towards x, so that no rounding
    leads out of the ball.

    Args:
        mean: one value per channel (dimension 1 of the batch), or one for all.
        std: the same, each > 0.

    Raises:
        ValueError: if the lengths differ or a std is not positive.

    Example:
        >>> from lsa_lightning.attacks import FGSM
        >>> attack = InputSpace(mean=0.5, std=0.25)(FGSM(eps=0.1))
        >>> x = torch.zeros(4, 2)  # pixels of 0.5
        >>> x_adv = attack(torch.nn.Linear(2, 1), x, torch.tensor([0, 1, 0, 1]))
        >>> attack.eps, round(float((x_adv - x).abs().max()), 6)
        (0.1, 0.4)
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        means, stds = ([values] if isinstance(values, Real) else values for values in (mean, std))
        self.mean = torch.tensor(sequence(self, "mean", means, number))
        self.std = torch.tensor(sequence(self, "std", stds, number, above=0))
        if len(self.mean) != len(self.std):
            refuse(self, "std", f"of the length of mean, {len(self.mean)}", std)

    def __call__(self, attack: Attack) -> Attack:
        """``attack`` for inputs of this space; its eps, norm and bounds are those of pixels.

        Raises:
            ValueError: if ``attack`` is not an :class:`~lsa_lightning.attacks.Attack`.
        """
        return AttackInSpace(attack, self)

    def to_pixels(self, x: Tensor, bounds: Bounds) -> Tensor:
        """The pixels of normalised inputs ``[N, ...]``, without what rounding added beyond ``bounds``.

        Raises:
            ValueError: if the inputs are not floating, or of another number of channels.
        """
        mean, std = self._constants(x)
        return _without_rounding(x * std + mean, bounds, x.dtype)

    def model_of_pixels(self, model: Model, x: Tensor) -> nn.Module:
        """``model``, which takes normalised inputs like ``x``, as a function of pixels."""
        return _ModelOfPixels(model, *self._constants(x), x.dtype)

    def change_in_inputs(self, x: Tensor, pixels: Tensor, perturbed: Tensor) -> Tensor:
        """``x`` moved as its ``pixels`` were, and no farther; exactly as before where they did not move."""
        wide = widest_float(x.device)
        moves = perturbed.to(wide) - pixels.to(wide)
        return cast_towards(x.to(wide) + moves / self._constants(x)[1].to(wide), x)

    def _constants(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std in a shape that broadcasts against ``x``, in the dtype of its pixels, on its device."""
        instance(self, "x", x, Tensor)
        if not x.is_floating_point() or x.ndim < 2:
            msg = f"expected floating inputs [N, ...], got {x.dtype} {tuple(x.shape)}"
            raise ValueError(msg)
        channels = len(self.mean)
        if channels not in (1, x.shape[1]):
            msg = f"expected input_space with 1 or {x.shape[1]} channels for inputs {tuple(x.shape)}, got {channels}"
            raise ValueError(msg)
        shape = (1, -1, *[1] * (x.ndim - 2))
        with torch.inference_mode(False):  # gradients pass through them
            options: dict[str, Any] = {"device": x.device, "dtype": _of_pixels(x.dtype), "copy": True}
            return self.mean.to(**options).view(shape), self.std.to(**options).view(shape)

    def __repr__(self) -> str:
        mean, std = ([float(f"{value:.4g}") for value in values.tolist()] for values in (self.mean, self.std))
        return f"InputSpace(mean={mean}, std={std})"


class AttackInSpace(CompositeAttack):
    """An attack on normalised inputs that is carried out in pixels, see :class:`InputSpace`.

    Args:
        attack: the attack; its eps, norm and bounds, in pixels, are also those of this one.
        space: the map between pixels and inputs.

    Raises:
        ValueError: if ``attack`` is not an :class:`~lsa_lightning.attacks.Attack`.
    """

    def __init__(self, attack: Attack, space: InputSpace) -> None:
        instance(self, "attack", attack, Attack, what="an Attack, such as PGD(eps=8/255)")
        instance(self, "space", space, InputSpace)
        super().__init__(attack.eps, norm=attack.norm, bounds=attack.bounds, seed=attack.seed)
        self.attacks = {"pixels": attack}
        self.space = space

    @property
    def attack(self) -> Attack:
        """The attack on pixels."""
        return self.attacks["pixels"]

    @property
    def min_classes(self) -> int:
        """Those of the attack on pixels."""
        return self.attack.min_classes

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Perturb normalised inputs ``x``; see :meth:`Attack.__call__`."""
        function(self, "model", model, what="a model that maps x to logits")
        pixels = self.space.to_pixels(x, self.bounds)
        perturbed = self.attack(self.space.model_of_pixels(model, x), pixels, y)
        return self.space.change_in_inputs(x, pixels, perturbed)

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """What the attack on pixels does, for a model and inputs that are in pixels already."""
        return self.attack.perturb(model, x, y, ball)

    def __repr__(self) -> str:
        return f"{self.space!r}({self.attack!r})"


def has_space(attack: Attack) -> bool:
    """Whether the attack's eps and bounds are in pixels, and its inputs are not."""
    return isinstance(attack, AttackInSpace) or (isinstance(attack, AttackOnLogits) and has_space(attack.attack))


def check_same_space(owner: object, name: str, value: Any, attacks: Iterable[Attack]) -> None:
    """Raise a ValueError if attacks have an input space and what is measured beside them has none."""
    if value is not None and value.input_space is None and any(map(has_space, attacks)):
        refuse(owner, name, "one with the input_space that attacks have, whose eps are in pixels", value)


class _ModelOfPixels(nn.Module):
    """A module, so that attacks find the modes of the user's model in it."""

    def __init__(self, model: Model, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.std = std
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Any:
        """What the model says to these pixels."""
        return self.model(self.inputs(pixels))

    def inputs(self, pixels: Tensor) -> Tensor:
        """The inputs that these pixels become."""
        return ((pixels - self.mean) / self.std).to(self.dtype)


def _of_pixels(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _without_rounding(pixels: Tensor, bounds: Bounds, dtype: torch.dtype) -> Tensor:
    """Undo what normalising and back, in ``dtype``, added beyond the bounds; larger excess the attack reports."""
    if bounds is None:
        return pixels
    # float64 batches too may have been normalised in float32.
    slack = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) * (bounds[1] - bounds[0])
    clamped = pixels.clamp(*bounds)
    return clamped.where((clamped - pixels).abs() <= slack, pixels)
