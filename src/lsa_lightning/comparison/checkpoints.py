"""Evaluations of several checkpoints, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsa_lightning.comparison.groups import group_by_seed
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.folder import save_figure, save_table, write_json
from lsa_lightning.runs.read import read_run
from lsa_lightning.runs.stages import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_comparison(evaluations: Mapping[str, Evaluation], folder: Path, unit: str | None = None) -> None:
    """Evaluations by checkpoint, side by side: one table, one CSV, one JSON, and a figure per attack.

    The JSON of a single checkpoint is that of :func:`write_evaluation` with its ``checkpoint``; that of several has
    such an entry for each in the list ``checkpoints``.
    """
    import pandas as pd

    tables = {path: each.table for path, each in evaluations.items()}
    frames = {path: each.to_dataframe() for path, each in evaluations.items()}
    save_table(pd.concat(frames, names=["checkpoint"]).reset_index(level=0), folder / "evaluation.csv")
    entries = [{"checkpoint": path, **each.to_dict()} for path, each in evaluations.items()]
    write_json(entries[0] if len(entries) == 1 else {"checkpoints": entries}, folder / "evaluation.json")
    first = next(iter(tables.values()))
    if len(tables) == 1:
        save_figure(first.plot(unit), folder, "accuracy")
        return
    short = checkpoint_labels(list(tables))
    for attack in first.accuracy:
        curves = {_with_samples(short[path], table, tables): _curve(table, attack) for path, table in tables.items()}
        save_figure(_figure_of(curves, attack, first, unit), folder, f"accuracy_{attack}")


def _figure_of(
    curves: Mapping[str, Mapping[float, tuple[float, tuple[float, float]]]],
    attack: str,
    first: RobustnessTable,
    unit: str | None,
) -> Figure:
    from lsa_lightning.plotting import plot_mean_accuracy

    known: dict[str, Any] = {"training_eps": first.training_eps, "norm": first.norm, "unit": unit}
    return plot_mean_accuracy(curves, line="checkpoint", attack=attack, bars="95 % interval", **known)


def _with_samples(label: str, table: RobustnessTable, tables: Mapping[str, RobustnessTable]) -> str:
    """The label, and where test sets differ in size the size of this one."""
    sizes = {each.samples for each in tables.values()}
    return label if len(sizes) == 1 else f"{label}, {table.samples} samples"


def checkpoint_labels(checkpoints: Sequence[str]) -> dict[str, str]:
    """What tells each checkpoint from the others, in short; an empty text for a single one.

    Of finished runs that is what their configurations differ in, the seed, and the name of the file; else the parts of
    the paths that differ.
    """
    if len(checkpoints) == 1:
        return {checkpoints[0]: ""}
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    words = [", ".join(parts) for parts in _that_differ(_described(paths))]
    if len(set(words)) < len(words):
        words = ["/".join(parts) for parts in _that_differ([path.parts for path in paths])]
    return dict(zip(checkpoints, words, strict=True))


def _described(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Label, seed and file name of each checkpoint; the file name alone where a run cannot be read."""
    try:
        runs = {path.parent.parent: read_run(path.parent.parent) for path in paths}
    except (ValueError, OSError):
        return [(path.stem,) for path in paths]
    labels = {run.folder: group.label for group in group_by_seed(list(runs.values())) for run in group.runs}
    return [(labels[path.parent.parent], f"seed {runs[path.parent.parent].summary.seed}", path.stem) for path in paths]


def _that_differ(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows without the entries at which all are the same; paths of other lengths are filled up."""
    columns = [each for each in zip_longest(*rows, fillvalue="") if len(set(each)) > 1]
    return [tuple(filter(None, row)) for row in zip(*columns, strict=True)] or [()] * len(rows)


def _curve(table: RobustnessTable, attack: str) -> dict[float, tuple[float, tuple[float, float]]]:
    """Accuracy by eps, with its interval."""
    return dict(zip(table.eps, zip(table.accuracy[attack], table.intervals[attack], strict=True), strict=True))
