"""Statistical noises: attacks that do not look at the model.

All share the severity ``eps``, the radius of the ball in which they stay, so that one sweep over eps covers gradient
attacks and noises alike. Their size is what each coordinate may have if all move alike: eps in Linf, eps / sqrt(d) in
L2 for inputs of d coordinates. Labels are not used.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.utils.checks import number


class Noise(Attack):
    """A random perturbation, projected to the ball and the bounds. Subclasses write :meth:`sample`."""

    def __init__(
        self,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)

    @abstractmethod
    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The perturbation of ``x`` (float32 at least) for size 1, before projection."""

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """One draw; the model is not called."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        size = self.eps / ball.norm_of_ones(x[0].numel())
        return ball.project((wide + size * self.sample(wide, self.generator(x.device))).to(x.dtype))


class GaussianNoise(Noise):
    r"""Additive noise :math:`x + n,\ n \sim N(0, (s/2)^2)` of size s, projected; Linf: cut at s = eps.

    Args:
        eps: radius >= 0; in Linf, twice the standard deviation.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the noise, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Normal draws."""
        return torch.empty_like(x).normal_(generator=generator) / 2


class SpeckleNoise(Noise):
    r"""Multiplicative noise :math:`x + x\,n,\ n \sim N(0, (s/2)^2)` of size s, projected; Linf: cut at s = eps.

    Args:
        eps: radius >= 0; in Linf, twice the standard deviation of the factor.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the noise, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Normal draws, scaled by the input."""
        return x * torch.empty_like(x).normal_(generator=generator) / 2


class _ImpulseNoise(Noise):
    """A random share of the coordinates moves in one direction."""

    direction: float

    def __init__(
        self,
        eps: float = 8 / 255,
        amount: float = 0.1,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        self.amount = number(self, "amount", amount, low=0, high=1)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Bernoulli draws."""
        hit = torch.empty_like(x).uniform_(0, 1, generator=generator) < self.amount
        return self.direction * hit.to(x.dtype)


class SaltNoise(_ImpulseNoise):
    """Each coordinate is raised with probability ``amount``, in Linf by eps; 1 on pixels is the usual white salt.

    Args:
        eps: radius >= 0.
        amount: probability in [0, 1] that a coordinate is hit.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the noise, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    direction = 1.0


class PepperNoise(_ImpulseNoise):
    """Each coordinate is lowered with probability ``amount``, in Linf by eps; 1 on pixels is the usual black pepper.

    Args:
        eps: radius >= 0.
        amount: probability in [0, 1] that a coordinate is hit.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the noise, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    direction = -1.0
