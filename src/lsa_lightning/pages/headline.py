"""What the page of a run says first."""

from __future__ import annotations

from typing import NamedTuple

from lsa_lightning.comparison.metrics import radius_of
from lsa_lightning.evaluation.robustness import EXACT
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.read import Run


class WorstCase(NamedTuple):
    """The lowest accuracy of all rows at one radius; of equal ones that of ``exact``, which no attack can lower.

    Attributes:
        attack: the row, an attack or ``exact``.
        where: the radius in words.
        accuracy: in percent.
        interval: its 95 % interval.
        ceiling: what no classifier exceeds there; None where that is not known.
    """

    attack: str
    where: str
    accuracy: float
    interval: tuple[float, float]
    ceiling: float | None

    @classmethod
    def of(cls, run: Run) -> WorstCase | None:
        """That at the radius of training or, of clean data, of the threat model; else at the largest one."""
        table = run.summary.evaluation
        if table is None:
            return None
        radius = radius_of(run)
        column = table.eps.index(radius) if radius in table.eps else len(table.eps) - 1
        eps = table.eps[column]
        kind = "the training " if eps == table.training_eps else "" if radius in table.eps else "the largest "
        where = f"{kind}eps {eps:g}" + (f" ({table.norm})" if table.norm else "")
        attack = min(table.accuracy, key=lambda name: (table.accuracy[name][column], name != EXACT))
        ceiling = None if table.ceiling is None else dict(zip(table.ceiling.eps, table.ceiling.accuracy, strict=True))
        accuracy, interval = table.accuracy[attack][column], table.intervals[attack][column]
        return cls(attack, where, accuracy, interval, None if ceiling is None else ceiling.get(eps))

    def __str__(self) -> str:
        low, high = self.interval
        right = f"{self.accuracy:.2f} % of the test samples stay right ({self.attack}"
        words = f"In the worst case at {self.where}, {right}, 95 % interval {low:.2f} to {high:.2f})"
        if self.ceiling is None:
            return f"{words}."
        return f"{words}, {self.ceiling - self.accuracy:.2f} points below the ceiling of {self.ceiling:.2f} %."


def masking_in_words(flags: dict[str, MaskingFlag]) -> str:
    """How many of the checks that apply raised a flag."""
    if not flags:
        return "not checked"
    applied = [flag for flag in flags.values() if flag.raised is not None]
    raised = sum(flag.raised is True for flag in applied)
    return f"{raised or 'no'} flag{'s' if raised > 1 else ''} raised; {len(applied)} of {len(flags)} checks apply"
