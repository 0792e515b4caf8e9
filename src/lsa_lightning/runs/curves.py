"""``metrics.csv``, read back: losses and accuracies over the epochs."""

from __future__ import annotations

import csv
from pathlib import Path

METRICS_FILE = "metrics.csv"

_LOSSES = {
    "train/loss_base": "loss on attacked batches",
    "train/loss_lr": "layer-wise term added to it",
    "train/loss_lr_unlabelled": "layer-wise term on inputs without labels, added too",
}
"""What training with an attack is split into, by the name in the legend."""

_WHOLE = {"train/loss": "training loss"}
"""What a module logs itself, which stands for all where the callbacks logged nothing."""

_ACCURACY = "val/acc_"

_MEASURED = "val/measured_epoch"
"""What :class:`~lsa_lightning.RobustValidation` logs where it repeats accuracies: the epoch that they are of."""


def curves_of(file: Path) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Training losses, and accuracies of validation in percent, by name and epoch; the last one logged in an epoch.

    Accuracies that an epoch repeats are left out.

    Args:
        file: a ``metrics.csv``; there are no curves if it does not exist.
    """
    if not file.is_file():
        return {}, {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = {name: _by_epoch(rows, name) for name in (rows[0] if rows else ())}
    known = _LOSSES if columns.get("train/loss_base") else _WHOLE
    losses = {words: columns[name] for name, words in known.items() if columns.get(name)}
    repeated = {epoch for epoch, measured in columns.get(_MEASURED, {}).items() if epoch != measured}
    accuracies = {
        name.removeprefix(_ACCURACY): {epoch: 100 * share for epoch, share in curve.items() if epoch not in repeated}
        for name, curve in columns.items()
        if name.startswith(_ACCURACY) and curve
    }
    return losses, accuracies


def _by_epoch(rows: list[dict[str, str]], name: str) -> dict[int, float]:
    return {int(row["epoch"]): float(row[name]) for row in rows if row.get(name) and row.get("epoch")}
