"""Accuracy under attacks times eps, and the R&G score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.batch import BatchFn, move_data_to_device, read_batch
from lsa_lightning.functional import predicted_labels, robustness_generalization_score, wilson_interval
from lsa_lightning.modes import evaluating

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
        """Plain containers, with R&G."""
        return {"eps": self.eps, "accuracy": self.accuracy, "rg_score": self.rg_score, "samples": self.samples}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per attack and eps: attack, eps, accuracy."""
        import pandas as pd

        rows = [(name, eps, acc) for name, row in self.accuracy.items() for eps, acc in zip(self.eps, row, strict=True)]
        return pd.DataFrame(rows, columns=["attack", "eps", "accuracy"])


def evaluate_robustness(
    model: nn.Module,
    dataloader: Iterable[Any],
    attacks: Mapping[str, Attack],
    eps: Sequence[float],
    batch_fn: BatchFn = read_batch,
    max_batches: int | None = None,
) -> RobustnessTable:
    """Measure ``model`` under each attack at each radius; step sizes scale with eps.

    Args:
        model: maps x to logits; runs in eval mode and is left as it was.
        dataloader: any iterable of batches; they are moved to the model's device.
        attacks: attack by name, at least one.
        eps: radii > 0, at least one; the clean column is added.
        batch_fn: ``batch -> (x, y)``.
        max_batches: number of batches >= 1, or None for all.

    Returns:
        The table.

    Raises:
        ValueError: if there is no attack, no radius, a radius <= 0, or no batch.
    """
    radii = sorted(set(eps))
    if not attacks or not radii or radii[0] <= 0 or (max_batches is not None and max_batches < 1):
        msg = (
            "expected at least one attack, at least one eps, each > 0, and max_batches >= 1 or None, "
            f"got {list(attacks)}, {list(eps)} and {max_batches}"
        )
        raise ValueError(msg)
    grid = {name: [attack.with_eps(radius) for radius in radii] for name, attack in attacks.items()}
    hits = {name: [0] * (1 + len(radii)) for name in grid}
    samples = 0
    parameter = next(model.parameters(), torch.zeros(()))
    for batch in islice(dataloader, max_batches):
        x, y = batch_fn(move_data_to_device(batch, parameter.device))
        samples += len(x)
        clean = int(correct(model, x, y).sum())
        for name, row in grid.items():
            hits[name][0] += clean
            for column, attack in enumerate(row, start=1):
                hits[name][column] += int(correct(model, attack(model, x, y), y).sum())
    if samples == 0:
        msg = "expected a dataloader with at least one batch, got an empty one"
        raise ValueError(msg)
    accuracy = {name: [100 * hit / samples for hit in row] for name, row in hits.items()}
    return RobustnessTable([0.0, *radii], accuracy, samples)


def correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which samples ``model``, in eval mode, classifies as ``y`` says: bool ``[N]``."""
    with evaluating(model), torch.no_grad():
        return predicted_labels(model(x)) == y.flatten()
