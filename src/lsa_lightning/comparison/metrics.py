"""The figures that runs are compared by, and what several seeds say about each of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lsa_lightning.functional import t_interval
from lsa_lightning.runs.read import Run
from lsa_lightning.utils.describe import eps_in_words


@dataclass(frozen=True)
class Metric:
    """An accuracy or an R&G score; two that were measured otherwise, at other radii or in another norm, are not equal.

    Attributes:
        attack: what the model was measured under; empty for clean data.
        eps: the radius of an accuracy, 0 for clean data; the radii that an R&G is summed over.
        is_score: whether it is an R&G.
        norm: norm of the ball that eps is the radius of; None for clean data, and where it is not known.
    """

    attack: str
    eps: tuple[float, ...]
    is_score: bool = False
    norm: str | None = None

    @property
    def name(self) -> str:
        """As in the metrics of a summary: ``accuracy/clean``, ``accuracy/pgd/0.3``, ``rg_score/pgd``."""
        if self.is_score:
            return f"rg_score/{self.attack}"
        return f"accuracy/{self.attack}/{self.eps[0]:g}" if self.attack else "accuracy/clean"

    @property
    def title(self) -> str:
        """The name in words."""
        if self.is_score:
            return f"R&G under {self.attack}"
        return f"accuracy under {self.attack}, eps {eps_in_words(self.eps[0])}" if self.attack else "clean accuracy"

    @property
    def circumstances(self) -> str:
        """What tells it from one of the same title."""
        radii = f"eps {', '.join(map(eps_in_words, self.eps))}"
        return radii if self.norm is None else f"{radii} in {self.norm}"


CLEAN = Metric("", (0.0,))


class Spread(NamedTuple):
    """Mean of a number over seeds, and how far it may be trusted.

    Attributes:
        n: number of values.
        mean: their mean.
        std: their sample standard deviation; None for a single one.
        interval: 95 % interval of the mean by Student's t; None for a single one.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(1, values[0], None, None)
        return cls(len(values), statistics.fmean(values), statistics.stdev(values), t_interval(values))

    def times(self, factor: float) -> Spread:
        """Of the values times a factor > 0."""
        interval = None if self.interval is None else (factor * self.interval[0], factor * self.interval[1])
        return Spread(self.n, factor * self.mean, None if self.std is None else factor * self.std, interval)

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    @property
    def half_or_nan(self) -> float:
        """The same as a number, for figures."""
        return math.nan if self.half is None else self.half


def measured(run: Run) -> dict[Metric, float]:
    """Every accuracy and R&G of a run in percent, clean accuracy first; empty without an evaluation."""
    table = run.summary.evaluation
    if table is None:
        return {}
    values: dict[Metric, float] = {}
    norm = _norm(run)
    for attack, row in table.accuracy.items():
        for eps, accuracy in zip(table.eps, row, strict=True):
            values[CLEAN if eps == 0 else Metric(attack, (eps,), norm=norm)] = accuracy
    radii = tuple(table.eps if table.rg_eps is None else table.rg_eps)
    return values | {Metric(attack, radii, True, norm): score for attack, score in table.rg_score.items()}


def ceilings(run: Run) -> dict[Metric, float]:
    """What no classifier exceeds on the run's test samples, by what the run was measured by; empty if unknown."""
    found = None if run.summary.evaluation is None else run.summary.evaluation.ceiling
    if found is None:
        return {}
    most = dict(zip(found.eps, found.accuracy, strict=True))
    scores = {metric: found.rg_score for metric in measured(run) if metric.eps == tuple(found.rg_eps)}
    return {
        metric: scores[metric] if metric.is_score else most[metric.eps[0]]
        for metric in measured(run)
        if (metric in scores if metric.is_score else metric.eps[0] in most)
    }


def headline(runs: Iterable[Run]) -> list[Metric]:
    """Clean accuracy, that under each attack at the :func:`radius_of` each run, and R&G, in this order."""
    found: dict[Metric, None] = {}
    for run in runs:
        radius = radius_of(run)
        found |= dict.fromkeys(m for m in measured(run) if m == CLEAN or m.is_score or m.eps == (radius,))
    return sorted(found, key=lambda metric: (metric.is_score, metric != CLEAN))


def training_eps(run: Run) -> float | None:
    """The radius of training; where the evaluation does not know it, as before 0.1.0, that of the threat model.

    None for a run that trained without an attack.
    """
    table, callbacks = run.summary.evaluation, run.config.get("callbacks")
    if table is not None and table.training_eps is not None:
        return table.training_eps
    attacked = isinstance(callbacks, dict) and any(isinstance(c, dict) and "attack" in c for c in callbacks.values())
    return radius_of(run) if attacked else None


def radius_of(run: Run) -> float | None:
    """The radius of training or, of clean data, of the threat model."""
    table, threat = run.summary.evaluation, run.config.get("threat")
    if table is not None and table.training_eps is not None:
        return table.training_eps
    return threat.get("eps") if isinstance(threat, dict) else None


def _norm(run: Run) -> str | None:
    """The norm of the evaluation; before 0.1.0 neither it nor the threat model told, but the attack of training did."""
    table, threat, attack = run.summary.evaluation, run.config.get("threat"), run.config.get("attack")
    if table is not None and table.norm is None and isinstance(threat, dict) and "norm" not in threat:
        return attack.get("norm") if isinstance(attack, dict) else None
    return None if table is None else table.norm
