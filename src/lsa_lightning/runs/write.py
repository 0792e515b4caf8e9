"""What the stages found, written to the run folder: tables as CSV and JSON, figures as PNG and SVG."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lsa_lightning.attacks import Attack
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.functional import predicted_labels
from lsa_lightning.layers.report import AnalysedEpoch, plot_history, plot_reports
from lsa_lightning.runs.folder import save_figure, save_table, write_json
from lsa_lightning.runs.stages import Analysis, Evaluation
from lsa_lightning.utils.batch import read_batch
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.outputs import read_logits

if TYPE_CHECKING:
    import pandas as pd


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """``profile_<attack>.json``, ``profile.csv`` and the figure of the layers."""
    for name, report in analysis.reports.items():
        report.save(folder / f"profile_{name}.json")
    save_table(analysis.to_dataframe(), folder / "profile.csv")
    save_figure(plot_reports(analysis.reports, analysis.mvl), folder, "layer_profile")


def write_table(table: RobustnessTable, folder: Path) -> None:
    """``evaluation.csv``, as long as nothing is known of masking, and the figure of the accuracies."""
    save_table(_flagged(Evaluation(table, {})), folder / "evaluation.csv")
    save_figure(table.plot(), folder, "accuracy")


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """``evaluation.json`` and ``evaluation.csv``: accuracies and masking flags."""
    write_json(evaluation.to_dict(), folder / "evaluation.json")
    save_table(_flagged(evaluation), folder / "evaluation.csv")


def _flagged(evaluation: Evaluation) -> pd.DataFrame:
    """The table with a column of the masking flags that were raised, the same in each row."""
    return evaluation.table.to_dataframe().assign(masking=evaluation.flags_in_words)


def write_comparison(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Evaluations by checkpoint, side by side: one table, one CSV, one JSON, and a figure per attack.

    The JSON of a single checkpoint is that of :func:`write_evaluation` with its ``checkpoint``; that of several has
    such an entry for each in the list ``checkpoints``.
    """
    import pandas as pd

    from lsa_lightning.plotting import plot_mean_accuracy

    tables = {path: each.table for path, each in evaluations.items()}
    frames = {path: _flagged(each) for path, each in evaluations.items()}
    save_table(pd.concat(frames, names=["checkpoint"]).reset_index(level=0), folder / "evaluation.csv")
    entries = [{"checkpoint": path, **each.to_dict()} for path, each in evaluations.items()]
    write_json(entries[0] if len(entries) == 1 else {"checkpoints": entries}, folder / "evaluation.json")
    first = next(iter(tables.values()))
    if len(tables) == 1:
        save_figure(first.plot(), folder, "accuracy")
        return
    short = short_names(list(tables))
    for attack in first.accuracy:
        curves = {short[path]: _curve(table, attack) for path, table in tables.items()}
        figure = plot_mean_accuracy(curves, training_eps=first.training_eps, norm=first.norm)
        save_figure(figure, folder, f"accuracy_{attack}")


def write_history(history: Sequence[AnalysedEpoch], folder: Path) -> None:
    """The figure of the layers over the epochs of training; none without an analysed epoch."""
    if history:
        save_figure(plot_history(history), folder, "mvl_history")


def draw_inputs(model: nn.Module, dataloader: Any, attack: Attack, folder: Path) -> None:
    """Decision boundary with the first 200 points of two classes in a plane, or the first 8 images, attacked."""
    from lsa_lightning.plotting import plot_adversarial_images, plot_decision_boundary

    device = next(model.parameters(), torch.zeros(())).device
    x, y = (part.to(device) for part in read_batch(next(iter(dataloader))))
    if x.ndim == 2 and x.shape[1] == 2 and int(y.max()) <= 1:
        x, y = x[:200], y[:200]
        save_figure(plot_decision_boundary(model, x, y, attack(model, x, y)), folder, "decision_boundary")
    elif x.ndim == 4 and x.shape[1] in (1, 3):
        x, y = x[:8], y[:8]
        x_adv = attack(model, x, y)
        with evaluating(model), torch.no_grad():
            clean, adversarial = (predicted_labels(read_logits(model(inputs))) for inputs in (x, x_adv))
        figure = plot_adversarial_images(x, x_adv, y, clean, adversarial, attack.bounds or (0.0, 1.0))
        save_figure(figure, folder, "adversarial_images")


def short_names(checkpoints: Sequence[str]) -> dict[str, str]:
    """A short name for each checkpoint: A, B, ... Z, 27, 28, ...; an empty one for a single checkpoint."""
    if len(checkpoints) == 1:
        return {checkpoints[0]: ""}
    letters = [*string.ascii_uppercase, *(str(n) for n, _ in zip(count(27), checkpoints, strict=False))]
    return dict(zip(checkpoints, letters, strict=False))


def _curve(table: RobustnessTable, attack: str) -> dict[float, tuple[float, None]]:
    """Accuracy by eps, without a spread."""
    return {eps: (accuracy, None) for eps, accuracy in zip(table.eps, table.accuracy[attack], strict=True)}
