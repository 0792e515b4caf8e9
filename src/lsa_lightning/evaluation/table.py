"""Accuracies, attacks by radii, with their intervals and the R&G score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lsa_lightning.functional import robustness_generalization_score, wilson_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RobustnessTable:
    """Accuracies in percent.

    Attributes:
        eps: the columns, 0 (clean) first, rising.
        accuracy: by attack, one accuracy in [0, 100] per column.
        samples: number of samples that they were measured on.
    """

    eps: list[float]
    accuracy: dict[str, list[float]]
    samples: int

    @property
    def rg_score(self) -> dict[str, float]:
        """R&G by attack: the sum over the columns."""
        return {name: robustness_generalization_score(row) for name, row in self.accuracy.items()}

    @property
    def intervals(self) -> dict[str, list[tuple[float, float]]]:
        """95 % Wilson interval of each accuracy, in percent, laid out as ``accuracy``."""
        return {
            name: [wilson_interval(round(accuracy * self.samples / 100), self.samples) for accuracy in row]
            for name, row in self.accuracy.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, with R&G and intervals."""
        return {
            "eps": self.eps,
            "accuracy": self.accuracy,
            "intervals": {name: [list(ends) for ends in row] for name, row in self.intervals.items()},
            "rg_score": self.rg_score,
            "samples": self.samples,
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row per attack and eps: attack, eps, accuracy, and the ends low and high of its interval."""
        import pandas as pd

        rows = [
            (name, eps, accuracy, *ends)
            for name, row in self.accuracy.items()
            for eps, accuracy, ends in zip(self.eps, row, self.intervals[name], strict=True)
        ]
        return pd.DataFrame(rows, columns=["attack", "eps", "accuracy", "low", "high"])
