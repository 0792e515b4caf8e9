"""Accuracy of each class, and what its samples are taken for, clean and under an attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lsa_lightning.functional import wilson_interval

if TYPE_CHECKING:
    import pandas as pd

Confusion = list[list[int]]
"""Number of samples by class and predicted class, ``[C, C]``."""


@dataclass(frozen=True)
class ClassTable:
    """Confusion of C classes.

    Attributes:
        attack: name of the attack.
        attacked: the same with its radius, for figures.
        clean: of clean samples.
        adversarial: of the same samples under the attack.

    Example:
        >>> y, attacked = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
        >>> table = ClassTable.of("pgd", "pgd, eps 0.1 (Linf)", y, y, attacked, 2)
        >>> table.adversarial
        [[1, 1], [0, 1]]
        >>> [accuracy for accuracy, _ in table.accuracies["pgd"]]
        [50.0, 100.0]
    """

    attack: str
    attacked: str
    clean: Confusion
    adversarial: Confusion

    @classmethod
    def of(cls, attack: str, attacked: str, y: Tensor, clean: Tensor, adversarial: Tensor, classes: int) -> ClassTable:
        """Count labels and predicted classes, int64 ``[M]`` below ``classes``."""
        return cls(attack, attacked, *(_counted(y, predicted, classes) for predicted in (clean, adversarial)))

    @property
    def samples(self) -> list[int]:
        """Number of samples of each class."""
        return [sum(row) for row in self.clean]

    @property
    def accuracies(self) -> dict[str, list[tuple[float, tuple[float, float]]]]:
        """For ``clean`` and the attack: of each class the accuracy in percent and its 95 % Wilson interval.

        NaN for a class without samples.
        """
        return {name: [_share(row, i) for i, row in enumerate(rows)] for name, rows in self._by_name.items()}

    @property
    def taken_for(self) -> list[int | None]:
        """The wrong class that most samples of each class are taken for under the attack; None where none is."""
        wrong = [[0 if i == j else n for j, n in enumerate(row)] for i, row in enumerate(self.adversarial)]
        return [row.index(max(row)) if any(row) else None for row in wrong]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassTable:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if an entry is missing, or the counts are no squares of one size.
        """
        names = tuple(cls.__dataclass_fields__)
        sizes = {len(row) for name in names[2:] for row in [values.get(name, ()), *values.get(name, ())]}
        if missing := [name for name in names if name not in values]:
            msg = f"expected the entries of a ClassTable, found no {', '.join(missing)}"
            raise ValueError(msg)
        if len(sizes) != 1:
            msg = f"expected counts of shape [C, C], got sides of lengths {sorted(sizes)}"
            raise ValueError(msg)
        return cls(*(values[name] for name in names))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per class and kind of input: class, input, samples, accuracy, low, high, taken_for."""
        import pandas as pd

        others: dict[str, list[int | None]] = {"clean": [None] * len(self.clean), self.attack: self.taken_for}
        rows = [
            (i, name, self.samples[i], accuracy, *ends, others[name][i])
            for name, row in self.accuracies.items()
            for i, (accuracy, ends) in enumerate(row)
        ]
        columns = ["class", "input", "samples", "accuracy", "low", "high", "taken_for"]
        return pd.DataFrame(rows, columns=columns).astype({"taken_for": "Int64"})

    @property
    def _by_name(self) -> dict[str, Confusion]:
        return {"clean": self.clean, self.attack: self.adversarial}


def _counted(y: Tensor, predicted: Tensor, classes: int) -> Confusion:
    counts = torch.bincount(classes * y + predicted, minlength=classes * classes)
    found: Confusion = counts.view(classes, classes).tolist()
    return found


def _share(row: Sequence[int], right: int) -> tuple[float, tuple[float, float]]:
    total = sum(row)
    if total == 0:
        return math.nan, (math.nan, math.nan)
    return 100 * row[right] / total, wilson_interval(row[right], total)
