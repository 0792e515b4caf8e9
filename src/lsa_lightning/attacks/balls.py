"""The sets that a perturbed input may lie in: norm balls around x, cut by the bounds of the input space."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from lsa_lightning.utils.precision import widest_float

Bounds: TypeAlias = tuple[float, float] | None
"""Smallest and largest valid input value, such as (0, 1) for pixels; None where there is no limit, as for Moon."""


BALLS: dict[str, type[Ball]] = {}
"""The balls by the name of their norm; defining a subclass of :class:`Ball` with a ``norm`` enters it."""


class Ball(ABC):
    r"""All points within ``eps`` of x, and within the bounds, exactly in the dtype of x.

    A norm of your own is one class: subclass this one, set ``norm`` and write its abstract methods.

    Exactly: ``|x_adv - x| <= eps`` holds for the stored values in float16, bfloat16, float32 and float64. Rounding
    always goes towards x, never to the nearest number.

    Args:
        x: clean inputs, shape ``[N, ...]``, within the bounds.
        eps: radius >= 0.
        bounds: see :data:`Bounds`.

    Attributes:
        norm: the name by which attacks ask for it.
    """

    norm: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "norm" in vars(cls):
            BALLS[cls.norm] = cls

    def __init__(self, x: Tensor, eps: float, bounds: Bounds) -> None:
        self.x = x
        self.eps = _round_down(eps, x.dtype)
        self.bounds = bounds

    @staticmethod
    @abstractmethod
    def norm_of_ones(coordinates: float) -> float:
        """The norm of a vector whose coordinates, >= 1 in number and perhaps infinitely many, are all 1."""

    @classmethod
    def diameter(cls, bounds: tuple[float, float], coordinates: float) -> float:
        """The largest distance between two points within ``bounds``."""
        return (bounds[1] - bounds[0]) * cls.norm_of_ones(coordinates)

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """The nearest points inside, in the dtype of x."""

    @abstractmethod
    def random_point(self, generator: torch.Generator) -> Tensor:
        """A random start inside."""

    @abstractmethod
    def boundary_point(self, generator: torch.Generator) -> Tensor:
        """A random start at distance ``eps`` from x; nearer where the bounds cut it off."""

    @abstractmethod
    def ascend(self, points: Tensor, gradient: Tensor, alpha: float | Tensor) -> Tensor:
        """The steepest-ascent step of length ``alpha`` (a number, or one per sample ``[N, 1, ...]``), projected."""

    def select(self, samples: Tensor) -> Self:
        """The balls of some samples, given by their indices."""
        return type(self)(self.x[samples], self.eps, self.bounds)


class LinfBall(Ball):
    r"""``max_i |x_adv_i - x_i| <= eps``."""

    norm = "Linf"

    @cached_property
    def low(self) -> Tensor:
        """The smallest number of x's dtype inside, in each coordinate."""
        if not self._is_exact:
            return cast_towards(_clamp(_shifted(_widened(self.x), -self.eps), self.bounds), self.x)
        limit = self._shifted_exactly(-self.eps)
        # x itself may be a bound that was rounded outwards.
        return limit if self.bounds is None else limit.clamp_min(_inner(self.bounds, limit.dtype)[0]).minimum(self.x)

    @cached_property
    def high(self) -> Tensor:
        """The largest number of x's dtype inside, in each coordinate."""
        if not self._is_exact:
            return cast_towards(_clamp(_shifted(_widened(self.x), self.eps), self.bounds), self.x)
        limit = self._shifted_exactly(self.eps)
        return limit if self.bounds is None else limit.clamp_max(_inner(self.bounds, limit.dtype)[1]).maximum(self.x)

    @property
    def _is_exact(self) -> bool:
        """Whether differences of numbers of x's dtype are exact in the widest one, which saves three quarters."""
        return self.x.dtype is torch.float32 and widest_float(self.x.device) is torch.float64

    def _shifted_exactly(self, delta: float) -> Tensor:
        wide = self.x.double()
        near = (wide + delta).to(self.x.dtype)
        return near.where((near - wide).abs() <= abs(delta), torch.nextafter(near, self.x))

    @staticmethod
    def norm_of_ones(coordinates: float) -> float:
        """1, whatever their number."""
        return 1.0

    def project(self, points: Tensor) -> Tensor:
        """Clamp each coordinate."""
        # Both limits are numbers of x's dtype, so rounding a wider result to it cannot cross them.
        return torch.clamp(points, self.low, self.high).to(self.x.dtype)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Uniform in [-eps, eps] around x in each coordinate, then clamped to the bounds."""
        noise = torch.empty_like(self.x, dtype=_drawn_in(self.x)).uniform_(-self.eps, self.eps, generator=generator)
        return self.project((self.x + noise).to(self.x.dtype))

    def boundary_point(self, generator: torch.Generator) -> Tensor:
        """Uniform in the ball, scaled so that the largest coordinate of the perturbation is eps."""
        noise = torch.empty_like(self.x, dtype=_drawn_in(self.x)).uniform_(-1, 1, generator=generator)
        largest = noise.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
        return self.project(self.x + self.eps * noise / per_sample(largest, noise))

    def ascend(self, points: Tensor, gradient: Tensor, alpha: float | Tensor) -> Tensor:
        """``points + alpha sign(gradient)``."""
        # The sign of NaN is 0 in torch, which would hide a broken gradient.
        step = gradient.where(gradient.isnan(), gradient.sign())
        narrow = gradient.dtype != torch.promote_types(points.dtype, gradient.dtype)
        # A network in channels_last gives its gradients in that order too, where points may be in another.
        if narrow or isinstance(alpha, Tensor) or gradient.stride() != points.stride():
            return self.project(points + alpha * step)
        step = step.mul_(alpha).add_(points)
        return torch.clamp(step, self.low, self.high, out=step).to(self.x.dtype)

    def select(self, samples: Tensor) -> Self:
        """The balls of some samples, given by their indices."""
        chosen = copy.copy(self)
        chosen.x, chosen.low, chosen.high = self.x[samples], self.low[samples], self.high[samples]
        return chosen


class L2Ball(Ball):
    r"""``||x_adv - x||_2 <= eps`` over all coordinates of a sample (norm computed in float64, where that exists)."""

    norm = "L2"

    @staticmethod
    def norm_of_ones(coordinates: float) -> float:
        """The square root of their number."""
        return math.sqrt(coordinates)

    def project(self, points: Tensor) -> Tensor:
        """Scale the perturbation of each sample back to length eps, then clamp to the bounds."""
        wide = _widened(self.x)
        delta = points.to(wide) - wide
        length = _length(delta)
        # A hair below eps, so that the norm of the result, itself rounded in float32, is not above it.
        below = 1 - (2**-21 if wide.dtype is torch.float64 else 2**-18)
        scale = (self.eps * below / length.clamp_min(torch.finfo(wide.dtype).tiny)).clamp_max(1.0)
        return cast_towards(_clamp(_shifted(wide, delta * scale), self.bounds), self.x)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """A uniform direction with a uniform radius in [0, eps]."""
        direction = torch.empty_like(self.x, dtype=_drawn_in(self.x)).normal_(generator=generator)
        radius = torch.empty_like(_length(direction)).uniform_(0, 1, generator=generator)
        return self.project(self.x + direction * (radius / _length(direction) * self.eps))

    def boundary_point(self, generator: torch.Generator) -> Tensor:
        """A uniform direction, at distance eps."""
        direction = torch.empty_like(self.x, dtype=_drawn_in(self.x)).normal_(generator=generator)
        return self.project(self.x + self.eps * direction / _length(direction))

    def ascend(self, points: Tensor, gradient: Tensor, alpha: float | Tensor) -> Tensor:
        """``points + alpha gradient / ||gradient||``; a zero gradient gives no step."""
        # Wide, or of ordinary size, so that the squares of a confident network's tiny gradient do not underflow.
        gradient = gradient.to(widest_float(gradient.device))
        tiny = torch.finfo(gradient.dtype).tiny
        if gradient.dtype is not torch.float64:
            gradient = gradient / per_sample(gradient.flatten(1).abs().amax(dim=1).clamp_min(tiny), gradient)
        return self.project(points + alpha * gradient / _length(gradient).clamp_min(tiny))


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """``values`` ``[N]`` in a shape ``[N, 1, ..., 1]`` that broadcasts against ``x`` ``[N, ...]``."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _length(delta: Tensor) -> Tensor:
    """Euclidean norm of each sample, shape ``[N, 1, ..., 1]``."""
    return per_sample(torch.linalg.vector_norm(delta.flatten(1), dim=1), delta)


def _drawn_in(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _clamp(points: Tensor, bounds: Bounds) -> Tensor:
    if bounds is None:
        return points
    return points.clamp(*_inner(bounds, points.dtype))


def _inner(bounds: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """``bounds`` in a dtype, rounded inwards."""
    return -_round_down(-bounds[0], dtype), _round_down(bounds[1], dtype)


def outermost(bounds: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """How far inputs of a dtype may lie that are within ``bounds`` but for rounding, as ``(pixels - mean) / std`` may.

    Example:
        >>> outermost((0.0, 1.0), torch.bfloat16), outermost((0.0, 0.3), torch.float16)
        ((0.0, 1.0), (0.0, 0.300048828125))
    """
    single = torch.finfo(torch.float32).eps
    slack = 4 * single * max(map(abs, bounds)) if torch.finfo(dtype).eps <= single else 0.0
    return _round_down(bounds[0] - slack, dtype), -_round_down(-bounds[1] - slack, dtype)


def _shifted(wide: Tensor, delta: Tensor | float) -> Tensor:
    """``wide + delta``, rounded towards ``wide`` where the nearest number is farther away than ``delta``."""
    total = wide + delta
    length = delta.abs() if isinstance(delta, Tensor) else abs(delta)
    return total.where(~_farther(total, wide, length), torch.nextafter(total, wide))


def _farther(points: Tensor, centre: Tensor, length: Tensor | float) -> Tensor:
    """Whether ``|points - centre| > length``; in float32 also where the difference is none of its numbers."""
    gap = points - centre
    if gap.dtype is torch.float64:
        return gap.abs() > length
    back = gap - points
    rest = (points - (gap - back)) - (centre + back)  # what the rounded difference lacks, exactly (Knuth's TwoSum)
    return (gap.abs() > length) | ((gap.abs() == length) & (rest * gap.sign() > 0))


def cast_towards(target: Tensor, x: Tensor) -> Tensor:
    """``target`` (wide) in the dtype of ``x``, rounded towards ``x`` wherever the nearest number is farther away."""
    limit = torch.finfo(x.dtype)
    wide = x.to(target.dtype)
    near = target.clamp(limit.min, limit.max).to(x.dtype)
    offset = near.to(target.dtype) - wide
    # One or two units in the last place; the second where the number is just above a power of two.
    unit = near.to(target.dtype).abs() * limit.eps + limit.smallest_normal * limit.eps
    inner = (near.to(target.dtype) - offset.sign() * unit).to(x.dtype)
    crossed = (inner.to(target.dtype) - wide) * offset <= 0
    overshoots = (near > target).where(target > wide, near < target)
    return near.where(~overshoots, inner.where(~crossed, x))


@lru_cache(maxsize=256)
def _round_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` (or one next to it) that is not above ``value``."""
    limit = torch.finfo(dtype)
    near = float(torch.tensor(min(value, limit.max), dtype=dtype))
    if near <= value:
        return near
    unit = abs(near) * limit.eps + limit.smallest_normal * limit.eps
    below = float(torch.tensor(near - unit, dtype=dtype))
    return max(below, 0.0) if value >= 0 else below


def _widened(x: Tensor) -> Tensor:
    return x.to(widest_float(x.device))
