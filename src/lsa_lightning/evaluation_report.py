"""Accuracies and masking flags of one or several models: measured, written to the run folder, and printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lsa_lightning.evaluation import RobustnessEvaluation, RobustnessTable
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.masking_flags import MaskingFlag
from lsa_lightning.runs import console, save_figure, write_json


@dataclass(frozen=True)
class Evaluation:
    """What an ``evaluation`` node gives: the table, and the masking flags by name (none if they are off)."""

    table: RobustnessTable
    masking: dict[str, MaskingFlag]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers: those of the table, and ``masking``."""
        return {**self.table.to_dict(), "masking": {name: flag.to_dict() for name, flag in self.masking.items()}}


def instantiate_evaluation(cfg: DictConfig) -> tuple[RobustnessEvaluation, MaskingChecks | None]:
    """What the ``evaluation`` node asks for; checks that are off are None."""
    node = instantiate(cfg, _convert_="all")
    options = {"max_batches": node["max_batches"], "seed": node["seed"], "progress": node["progress"]}
    return RobustnessEvaluation(node["attacks"], node["eps"], **options), node["masking"]


def run_evaluation(
    cfg: DictConfig, model: pl.LightningModule, loader: Any, state_file: Path | None = None
) -> Evaluation:
    """Attacks times eps and masking checks of ``cfg`` (the ``evaluation`` node); nothing is written but the state."""
    evaluation, masking = instantiate_evaluation(cfg)
    if state_file is not None and state_file.is_file():
        console.print(f"Going on from the finished batches in {state_file}", soft_wrap=True)
    table = evaluation.run(model, loader, state_file)
    return Evaluation(table, {} if masking is None else masking.run(model, loader))


def evaluate_and_write(cfg: DictConfig, model: pl.LightningModule, loader: Any, folder: Path) -> Evaluation:
    """:func:`run_evaluation` of one model: table, JSON, CSV and figure."""
    from lsa_lightning.plotting import plot_accuracy

    found = run_evaluation(cfg, model, loader)
    found.table.to_dataframe().to_csv(folder / "evaluation.csv", index=False)
    write_json(found.to_dict(), folder / "evaluation.json")
    save_figure(plot_accuracy(found.table), folder, "accuracy")
    print_accuracies({"": found.table})
    print_masking(found.masking)
    return found


def write_comparison(found: dict[str, Evaluation], folder: Path) -> None:
    """Evaluations by checkpoint, side by side: one table, one CSV, one JSON, and a figure per attack.

    The JSON of a single checkpoint is that of :func:`evaluate_and_write` with its ``checkpoint``; that of several has
    such an entry for each in the list ``checkpoints``.
    """
    import pandas as pd

    from lsa_lightning.plotting import plot_accuracy, plot_mean_accuracy

    frames = {path: each.table.to_dataframe() for path, each in found.items()}
    pd.concat(frames, names=["checkpoint"]).reset_index(level=0).to_csv(folder / "evaluation.csv", index=False)
    entries = [{"checkpoint": path, **each.to_dict()} for path, each in found.items()]
    write_json(entries[0] if len(entries) == 1 else {"checkpoints": entries}, folder / "evaluation.json")
    labels = dict(zip(found, _labels(len(found)), strict=True))
    tables = {labels[path]: each.table for path, each in found.items()}
    if len(tables) == 1:
        save_figure(plot_accuracy(next(iter(tables.values()))), folder, "accuracy")
    else:
        for attack in next(iter(tables.values())).accuracy:
            curves = {label: _curve(table, attack) for label, table in tables.items()}
            save_figure(plot_mean_accuracy(curves), folder, f"accuracy_{attack}")
    print_accuracies(tables)
    for path, each in found.items():
        if labels[path]:
            console.print(f"{labels[path]}: {path}", soft_wrap=True)
        print_masking(each.masking)


def print_accuracies(tables: dict[str, RobustnessTable]) -> None:
    """Accuracy in percent above its 95 % interval, attacks and checkpoints by eps, with R&G.

    Args:
        tables: by the checkpoint's short name (one without name for a single checkpoint), all of the same attacks and
            radii.
    """
    first = next(iter(tables.values()))
    samples = " and ".join(str(n) for n in sorted({table.samples for table in tables.values()}))
    shown = Table(title=f"Accuracy in %, 95 % intervals ({samples} samples)", box=SIMPLE_HEAD, padding=0)
    shown.add_column("attack", overflow="fold")
    for eps in first.eps:
        shown.add_column("clean" if eps == 0 else f"eps {eps:g}", justify="right")
    shown.add_column("R&G", justify="right", no_wrap=True)
    for name in first.accuracy:
        for label, table in tables.items():
            ends = zip(table.accuracy[name], table.intervals[name], strict=True)
            cells = [f"{accuracy:.2f}\n{_end(low)}-{_end(high)}" for accuracy, (low, high) in ends]
            shown.add_row(f"{name} {label}".rstrip(), *cells, f"{table.rg_score[name]:.2f}")
        shown.add_section()
    console.print(shown)


def print_masking(flags: dict[str, MaskingFlag]) -> None:
    """How many masking checks raised no flag, and what the others saw."""
    if not flags:
        return
    raised = {name: flag for name, flag in flags.items() if flag.raised}
    left_out = {name: flag for name, flag in flags.items() if flag.raised is None}
    console.print(f"Masking checks: {len(raised)} raised of {len(flags) - len(left_out)}")
    for name, flag in {**raised, **left_out}.items():
        console.print(f"  {name}: {flag.seen}", soft_wrap=True)


def _curve(table: RobustnessTable, attack: str) -> dict[float, tuple[float, None]]:
    """Accuracy by eps, without a spread."""
    return {eps: (accuracy, None) for eps, accuracy in zip(table.eps, table.accuracy[attack], strict=True)}


def _end(percent: float) -> str:
    """One digit after the point, but for 100, so that an interval has at most nine characters."""
    return f"{percent:.1f}" if percent < 99.95 else "100"


def _labels(count: int) -> list[str]:
    """Short names of checkpoints: A, B, ... Z, 27, 28, ...; none for a single one."""
    return [""] if count == 1 else [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(count)]
