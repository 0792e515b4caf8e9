"""Accuracies, attacks by radii, with their intervals and the R&G score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lsa_lightning.evaluation.ceiling import Ceiling
from lsa_lightning.functional import robustness_generalization_score, wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RobustnessTable:
    """Accuracies in percent.

    Attributes:
        eps: the columns, 0 (clean) first, rising.
        accuracy: by attack, one accuracy in [0, 100] per column.
        samples: number of samples that they were measured on.
        training_eps: the column at whose radius the model was trained; None where that is not known.
        rg_eps: the columns that R&G is summed over; None: all.
        norm: norm of the ball that eps is the radius of; None where the attacks have different ones.
        at_most: by name of a row that holds lower bounds of the robust accuracy, as ``exact`` does, the upper bounds.
        ceiling: what no classifier exceeds on these samples; None where that was not asked for.
    """

    eps: list[float]
    accuracy: dict[str, list[float]]
    samples: int
    training_eps: float | None = None
    rg_eps: list[float] | None = None
    norm: str | None = None
    at_most: dict[str, list[float]] = field(default_factory=dict)
    ceiling: Ceiling | None = None

    @property
    def rg_score(self) -> dict[str, float]:
        """R&G by attack: the sum over the columns ``rg_eps``."""
        counted = self.eps if self.rg_eps is None else self.rg_eps
        return {
            name: robustness_generalization_score(
                accuracy for eps, accuracy in zip(self.eps, row, strict=True) if eps in counted
            )
            for name, row in self.accuracy.items()
        }

    @property
    def rg_max(self) -> float:
        """The largest R&G that there can be: 100 per column."""
        return 100.0 * len(self.eps if self.rg_eps is None else self.rg_eps)

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
            "rg_eps": self.rg_eps,
            "training_eps": self.training_eps,
            "norm": self.norm,
            "samples": self.samples,
            "at_most": self.at_most,
            "ceiling": None if self.ceiling is None else self.ceiling.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RobustnessTable:
        """The inverse of :meth:`to_dict`; files of before 0.1.0 have no ``rg_eps``, ``training_eps`` and ``norm``.

        Raises:
            ValueError: if an entry is missing.
        """
        if missing := [key for key in ("eps", "accuracy", "samples") if key not in values]:
            msg = f"expected the entries of a RobustnessTable, found no {', '.join(missing)}"
            raise ValueError(msg)
        later = {key: values.get(key) for key in ("training_eps", "rg_eps", "norm")}
        ceiling = None if values.get("ceiling") is None else Ceiling.from_dict(values["ceiling"])
        at_most = values.get("at_most", {})
        return cls(values["eps"], values["accuracy"], values["samples"], **later, at_most=at_most, ceiling=ceiling)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per attack and eps: attack, eps, training, accuracy, low, high, at_most.

        ``training`` tells whether eps is the radius of training; low and high are the ends of the accuracy's interval;
        ``at_most`` is there for rows of lower bounds. The last rows are those of the ceiling, if there is one.
        """
        import pandas as pd

        rows: list[tuple[Any, ...]] = [
            (name, eps, eps == self.training_eps, accuracy, *ends, most)
            for name, row in self.accuracy.items()
            for eps, accuracy, ends, most in zip(self.eps, row, self.intervals[name], self._most(name), strict=True)
        ]
        if self.ceiling is not None:
            columns = zip(self.ceiling.eps, self.ceiling.accuracy, strict=True)
            rows += [("ceiling", eps, eps == self.training_eps, most, None, None, None) for eps, most in columns]
        return pd.DataFrame(rows, columns=["attack", "eps", "training", "accuracy", "low", "high", "at_most"])

    def _most(self, name: str) -> Sequence[float | None]:
        return self.at_most.get(name, [None] * len(self.eps))

    def plot(self, unit: str | None = None) -> Figure:
        """Accuracy over eps, one line per attack, with intervals.

        Args:
            unit: what eps is measured in, for the axis.
        """
        from lsa_lightning.plotting import plot_accuracy

        labels = {
            name: f"{name}{self._headline(name)}, R&G {score:.2f} of {self.rg_max:g}"
            for name, score in self.rg_score.items()
        }
        rows = {labels[name]: row for name, row in self.accuracy.items()}
        intervals: dict[str, Sequence[tuple[float, float] | None]]
        intervals = {labels[name]: row for name, row in self.intervals.items()}
        if self.ceiling is not None:
            label = f"ceiling at each eps; R&G at most {self.ceiling.rg_score:.2f} of {self.rg_max:g}"
            rows[label], intervals[label] = self.ceiling.accuracy, [None] * len(self.eps)
        return plot_accuracy(
            self.eps,
            rows,
            intervals,
            samples=self.samples,
            training_eps=self.training_eps,
            norm=self.norm,
            unit=unit,
        )

    def _headline(self, name: str) -> str:
        """The accuracy at the radius of training, if that is known."""
        if self.training_eps not in self.eps:
            return ""
        return f": {self.accuracy[name][self.eps.index(self.training_eps)]:.2f} % at eps {self.training_eps:g}"
