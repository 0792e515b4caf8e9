"""The stages of a job after training: analyse and evaluate, each measured, written and printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from lsa_lightning.evaluation import RobustnessEvaluation, RobustnessTable
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.masking.flags import MaskingFlag
from lsa_lightning.runs.console import console, print_accuracies, print_masking, print_profiles
from lsa_lightning.runs.folder import save_figure, write_json


def analyse_and_write(
    cfg: DictConfig, model: pl.LightningModule, loader: Any, folder: Path, max_batches: int | None = None
) -> tuple[dict[str, SustainabilityReport], list[str]]:
    """LSA under each perturber of ``cfg`` (the ``analysis`` node): table, JSON, CSV and figure.

    Returns:
        The reports by perturber, and the MVL under the first of them.
    """
    import pandas as pd

    from lsa_lightning.plotting import plot_profiles

    node = instantiate(cfg, _convert_="all")
    analysis = LayerSustainabilityAnalysis(model, node["layers"], node["measure"])
    reports = {name: analysis.run(loader, attack, max_batches) for name, attack in node["perturbers"].items()}
    mvl = next(iter(reports.values())).most_vulnerable(node["eta"], node["top_k"])
    for name, report in reports.items():
        report.save(folder / f"profile_{name}.json")
    frames = {name: report.to_dataframe() for name, report in reports.items()}
    pd.concat(frames, names=["perturber"]).reset_index(level=0).to_csv(folder / "profile.csv", index=False)
    save_figure(plot_profiles(reports, mvl), folder, "layer_profile")
    print_profiles(reports, mvl)
    return reports, mvl


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


def _curve(table: RobustnessTable, attack: str) -> dict[float, tuple[float, None]]:
    """Accuracy by eps, without a spread."""
    return {eps: (accuracy, None) for eps, accuracy in zip(table.eps, table.accuracy[attack], strict=True)}


def _labels(count: int) -> list[str]:
    """Short names of checkpoints: A, B, ... Z, 27, 28, ...; none for a single one."""
    return [""] if count == 1 else [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(count)]
