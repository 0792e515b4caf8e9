"""What an attacker may do: how far inputs may be moved, in which norm, and between which values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lsa_lightning.attacks.balls import BALLS, Ball, Bounds
from lsa_lightning.utils.checks import choice, number, or_none, refuse, sequence


@dataclass(frozen=True)
class ThreatModel:
    r"""All :math:`\hat x` with :math:`\|\hat x - x\| \le \epsilon` and every coordinate within the bounds.

    Args:
        norm: name of a :class:`~lsa_lightning.attacks.balls.Ball`: ``"Linf"`` or ``"L2"``, or one of your own.
        eps: radius >= 0 in units of the input, not larger than the diameter of the bounds.
        bounds: smallest and largest valid input value, such as (0, 1) for pixels; None: no bounds.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> threat = ThreatModel("L2", eps=0.5)
        >>> threat.with_eps(0.25), threat.diameter(4)
        (ThreatModel(norm='L2', eps=0.25, bounds=(0.0, 1.0)), 2.0)
    """

    norm: str = "Linf"
    eps: float = 8 / 255
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        choice(self, "norm", self.norm, BALLS)
        object.__setattr__(self, "eps", number(self, "eps", self.eps, low=0))
        object.__setattr__(self, "bounds", self._checked_bounds(self.bounds))
        self._check_diameter(math.inf)

    def with_eps(self, eps: float) -> Self:
        """The same with another radius."""
        return replace(self, eps=eps)

    def diameter(self, coordinates: float) -> float:
        """The largest distance between two inputs of so many coordinates; infinite without bounds."""
        return math.inf if self.bounds is None else BALLS[self.norm].diameter(self.bounds, coordinates)

    def ball(self, x: Tensor) -> Ball:
        """The set around each sample of ``x`` ``[N, ...]``.

        Raises:
            ValueError: if eps is larger than the diameter of the bounds, known only now for most norms.
        """
        self._check_diameter(x[0].numel())
        return BALLS[self.norm](x, self.eps, self.bounds)

    def _check_diameter(self, coordinates: float) -> None:
        largest = self.diameter(coordinates)
        if self.eps > largest:
            msg = f"expected eps <= {largest:.4g}, the {self.norm} diameter of the bounds {self.bounds}, got {self.eps}"
            raise ValueError(msg)

    def _checked_bounds(self, bounds: Any) -> Bounds:
        pair = or_none(sequence, self, "bounds", bounds, each=number)
        if pair is None:
            return None
        if len(pair) != 2 or not pair[0] < pair[1]:
            refuse(self, "bounds", "(low, high) with low < high, or None", bounds)
        return pair[0], pair[1]
