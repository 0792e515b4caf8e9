"""What the stages found, written to the run folder: tables as CSV and JSON, figures as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lsa_lightning.attacks import Attack
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.evaluation.observed import FEW, POINTS, Observed, Samples
from lsa_lightning.layers.report import AnalysedEpoch, in_words, plot_history, plot_reports
from lsa_lightning.runs.curves import METRICS_FILE, curves_of
from lsa_lightning.runs.folder import save_figure, save_table, write_json
from lsa_lightning.runs.read import CLASSES_FILE
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """``profile_<attack>.json``, ``profile.csv`` and the figure of the layers."""
    for name, report in analysis.reports.items():
        report.save(folder / f"profile_{name}.json")
    save_table(analysis.to_dataframe(), folder / "profile.csv")
    line = None
    if analysis.threshold is not None:
        line = f"threshold mu + {analysis.eta:g} sigma, {analysis.mvl_from}", analysis.threshold
    save_figure(plot_reports(analysis.reports, analysis.mvl, line), folder, "layer_profile")


def write_table(table: RobustnessTable, folder: Path, unit: str | None = None) -> None:
    """``evaluation.csv``, as long as nothing is known of masking, and the figure of the accuracies, with eps's unit."""
    save_table(Evaluation(table, {}).to_dataframe(), folder / "evaluation.csv")
    save_figure(table.plot(unit), folder, "accuracy")


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """``evaluation.json`` and ``evaluation.csv``: accuracies and masking flags."""
    write_json(evaluation.to_dict(), folder / "evaluation.json")
    save_table(evaluation.to_dataframe(), folder / "evaluation.csv")


def write_history(history: Sequence[AnalysedEpoch], folder: Path) -> None:
    """The figure of the layers over the epochs of training; none without an analysed epoch."""
    if history:
        save_figure(plot_history(history), folder, "mvl_history")


def write_training(folder: Path, kept: int | None, attacked: str, best_by: str = "", step: int | None = None) -> None:
    """The figure of losses and accuracies over the epochs in ``metrics.csv``; none without that file.

    Args:
        folder: the run folder.
        kept: the epoch whose weights were kept; None: the last one.
        attacked: radius of the attacks of validation, in words.
        best_by: what the kept epoch is the best by; empty: nothing was monitored.
        step: the step within that epoch whose weights were kept; None: its last.
    """
    from lsa_lightning.plotting import plot_training

    losses, accuracies = curves_of(folder / METRICS_FILE)
    if losses or accuracies:
        figure = plot_training(losses, accuracies, kept=kept, best_by=best_by, step=step, attacked=attacked)
        save_figure(figure, folder, "training")


def write_observed(
    stage: EvaluationStage, model: nn.Module, dataloader: Any, folder: Path, analysis: AnalysisStage | None = None
) -> None:
    """What single samples show, see :meth:`EvaluationStage.observe`; nothing where none are looked at.

    ``classes.json``, ``classes.csv`` and figures of the classes; the first 200 points of two classes in a plane with
    the decision boundary, or the first 8 images and the 8 whose layers are moved farthest; ``examples.safetensors``.
    """
    from lsa_lightning.plotting import plot_class_accuracy, plot_confusion

    observed = stage.observe(model, dataloader, analysis)
    if observed is None:
        return
    classes = observed.classes
    write_json(classes.to_dict(), folder / CLASSES_FILE)
    save_table(classes.to_dataframe(), folder / "classes.csv")
    rows = {classes.attacked if name == classes.attack else name: row for name, row in classes.accuracies.items()}
    save_figure(plot_class_accuracy(rows, samples=sum(classes.samples)), folder, "class_accuracy")
    save_figure(plot_confusion(classes.adversarial, attacked=classes.attacked), folder, "confusion")
    _draw_inputs(observed, model, folder)
    if stage.save_examples:
        observed.save_examples(folder / "examples.safetensors", stage.save_examples)


def _draw_inputs(observed: Observed, model: nn.Module, folder: Path) -> None:
    from lsa_lightning.plotting import plot_decision_boundary

    x, y = observed.first.x, observed.first.y
    if x.ndim == 2 and x.shape[1] == 2 and int(y.max()) <= 1:
        points = observed.first.rows(slice(POINTS))
        device = next(model.parameters(), torch.zeros(())).device
        x, y, x_adv = (part.to(device) for part in (points.x, points.y, points.x_adv))
        figure = plot_decision_boundary(model, x, y, x_adv, attacked=observed.classes.attacked)
        save_figure(figure, folder, "decision_boundary")
    elif x.ndim == 4 and x.shape[1] in (1, 3):
        attacked = observed.classes.attacked
        save_figure(_images(observed.first.rows(slice(FEW)), observed.attack, attacked), folder, "adversarial_images")
        if observed.farthest is not None:
            title = f"largest {in_words(observed.measure)}, mean over layers; {attacked}"
            errors = [f"{error:.2f}" for error in observed.farthest.error.tolist()]
            save_figure(_images(observed.farthest, observed.attack, title, errors), folder, "largest_errors")


def _images(samples: Samples, attack: Attack, title: str, titles: Sequence[str] | None = None) -> Figure:
    from lsa_lightning.plotting import plot_adversarial_images

    x, x_adv, bounds = samples.x, samples.x_adv, attack.bounds or (0.0, 1.0)
    return plot_adversarial_images(
        x, x_adv, samples.y, samples.clean, samples.adversarial, bounds, title=title, titles=titles
    )
