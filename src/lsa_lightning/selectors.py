r"""Which layers of an analysis are the most vulnerable, other than by Algorithm 1.

Algorithm 1, :math:`CM_l - \mu > \eta\,\sigma`, is what ``eta`` and ``top_k`` of :class:`~lsa_lightning.ATLR` stand for.
A selector takes its place: ``ATLR(attack, mvl=Amplification(top_k=2))``. One of your own is one class: subclass
:class:`Selector`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from lsa_lightning.functional import amplification
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.utils.checks import integer, number, or_none, refuse


class Selector(ABC):
    """Chooses layers from what an analysis found."""

    @abstractmethod
    def __call__(self, report: SustainabilityReport) -> list[str]:
        """Names of the chosen layers, the most vulnerable first; may be empty."""

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({given})"


class Level(Selector):
    r"""The layers whose mean exceeds a fixed level, :math:`CM_l > level`, whatever the others do.

    Unlike mu + eta sigma it may choose all layers, or, of a network that stands still, none.

    Args:
        level: threshold >= 0 of the measure.

    Raises:
        ValueError: if ``level`` is negative or not finite.

    Example:
        >>> import torch
        >>> mean = torch.tensor([0.2, 0.9, 0.6])
        >>> report = SustainabilityReport(["a", "b", "c"], ["a", "b", "c"], mean, mean, mean.mean(), mean.std(), 10)
        >>> Level(0.5)(report)
        ['b', 'c']
    """

    def __init__(self, level: float) -> None:
        self.level = number(self, "level", level, low=0)

    def __call__(self, report: SustainabilityReport) -> list[str]:
        """Those above the level, in order of falling mean."""
        return _largest(report.layers, report.mean.tolist(), self.level)


class Amplification(Selector):
    r"""The layers that make most of what comes to them, :math:`CM_l / CM_{l-1}`.

    A deep layer may be moved far only because an early one is. The first layer that is analysed has none before it, and
    is never chosen.

    Args:
        top_k: the k layers of largest amplification.
        above: those whose amplification exceeds this number >= 0; 1: all that make it larger. Either this or ``top_k``.

    Raises:
        ValueError: if neither or both are given, or one is outside its range; when it chooses, if there are fewer than
            ``top_k`` layers behind the first.

    Example:
        >>> import torch
        >>> mean = torch.tensor([0.2, 0.8, 0.9])
        >>> report = SustainabilityReport(["a", "b", "c"], ["a", "b", "c"], mean, mean, mean.mean(), mean.std(), 10)
        >>> Amplification(top_k=1)(report), Amplification(above=1.0)(report)
        (['b'], ['b', 'c'])

    Source: CLAT, Gopal et al. 2024, arXiv 2408.10204.
    """

    def __init__(self, top_k: int | None = None, *, above: float | None = None) -> None:
        self.top_k = or_none(integer, self, "top_k", top_k, low=1)
        self.above = or_none(number, self, "above", above, low=0)
        if (self.top_k is None) == (self.above is None):
            refuse(self, "top_k or above", "given, one of the two", {"top_k": top_k, "above": above})

    def __call__(self, report: SustainabilityReport) -> list[str]:
        """Those of large amplification, the largest first."""
        layers = report.layers[1:]
        if self.top_k is not None:
            integer(self, "top_k", self.top_k, high=len(layers), also=" (the number of layers behind the first)")
        above = -math.inf if self.above is None else self.above
        return _largest(layers, amplification(report.mean), above)[: self.top_k]


def _largest(layers: Sequence[str], values: Sequence[float], above: float) -> list[str]:
    ranked = sorted(zip(values, layers, strict=True), key=lambda pair: -pair[0])
    return [layer for value, layer in ranked if value > above]
