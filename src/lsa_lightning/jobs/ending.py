"""The end of a job: which weights are measured, and what the loggers are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.callbacks import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.evaluation.observed import radius_in_words
from lsa_lightning.layers.report import AnalysedEpoch
from lsa_lightning.runs.loggers import ResultLogger, pixels_of, result_loggers
from lsa_lightning.runs.read import read_run
from lsa_lightning.runs.stages import Evaluation
from lsa_lightning.runs.summary import RunSummary

VALIDATION = "lsa_lightning_validation"
"""The entry of a checkpoint with what validation said of its weights."""


class NotedValidation(pl.Callback):
    """Notes in each checkpoint the ``val/...`` metrics of its weights."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry."""
        checkpoint[VALIDATION] = validation_of(trainer)


class Kept(NamedTuple):
    """The weights that are measured.

    Attributes:
        file: their checkpoint; None: they are the last ones.
        epoch: the epoch that they are from, from 0; None: the last one.
        monitor: the metric that they are the best by; None without a checkpoint, or where nothing was monitored.
        validation: the ``val/...`` metrics of that epoch.
        step: the optimizer step that they are from, of a validation run within an epoch; None: the epoch's last.
    """

    file: str | None
    epoch: int | None
    monitor: str | None
    validation: dict[str, float]
    step: int | None = None

    def in_words(self, epochs: int) -> str:
        """Which weights they are, of so many epochs, counted from 1.

        Example:
            >>> Kept("best.ckpt", 11, "val/acc_pgd", {"val/acc_pgd": 0.8}).in_words(24)
            'the weights of epoch 12/24, the best val/acc_pgd, 0.8000'
        """
        if self.epoch is None:
            return f"the last weights, of epoch {epochs}/{epochs}"
        value = self.validation.get(self.monitor or "")
        chosen = "" if self.monitor is None else f", the best {self.monitor}"
        within = "" if self.step is None else f"step {self.step}, within "
        weights = f"the weights of {within}epoch {self.epoch + 1}/{epochs}"
        return f"{weights}{chosen}" + ("" if value is None else f", {value:.4f}")


def load_best(trainer: pl.Trainer, model: pl.LightningModule) -> Kept:
    """Put the best checkpoint's weights into ``model``; without one, the last weights stay."""
    chooser: Any = trainer.checkpoint_callback
    path = getattr(chooser, "best_model_path", "")
    if not path:
        return Kept(None, None, None, validation_of(trainer))
    checkpoint = torch.load(path, map_location=model.device, weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    score = {} if chooser.best_model_score is None else {str(chooser.monitor): float(chooser.best_model_score)}
    batches = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    step = None if batches.get("is_last_batch", True) else int(checkpoint["global_step"])
    return Kept(str(path), int(checkpoint["epoch"]), chooser.monitor, checkpoint.get(VALIDATION, score), step)


def validation_of(trainer: pl.Trainer) -> dict[str, float]:
    """The ``val/...`` metrics of the last validation run."""
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}


def what_was_trained(cfg: DictConfig, callbacks: list[pl.Callback]) -> dict[str, str]:
    """Model, data and method in words."""
    method = next((callback for callback in callbacks if isinstance(callback, AdversarialTraining)), None)
    parts = ("attack", "objective", "regularizer")
    return {
        "model": cfg.model.get("backbone", cfg.model)._target_,
        "data": OmegaConf.select(cfg, "data.dataset_cls.path") or cfg.data._target_,
        "method": "normal" if method is None else type(method).__name__,
        **{part: repr(getattr(method, part)) for part in parts if hasattr(method, part)},
    }


def history_of(callbacks: list[pl.Callback]) -> list[AnalysedEpoch]:
    """What the analyses during training found."""
    return [entry for callback in callbacks if isinstance(callback, ATLR) for entry in callback.history]


def log_results(loggers: list[Logger], trainer: pl.Trainer, summary: RunSummary, folder: Path) -> None:
    """Give figures, tables, results and files of the run folder to the loggers that keep them elsewhere."""
    import pandas as pd

    step = trainer.global_step
    adapters = result_loggers(logger for logger in loggers if not isinstance(logger, CSVLogger))
    if not adapters:
        return
    figures = {f"figures/{path.stem}": pixels_of(path) for path in sorted((folder / "figures").glob("*.png"))}
    files = {f"tables/{name}": folder / f"{name}.csv" for name in ("evaluation", "profile")}
    tables = {key: pd.read_csv(path) for key, path in files.items() if path.is_file()}
    for adapter in adapters:
        for key, pixels in figures.items():
            adapter.log_figure(key, pixels, step)
        for key, table in tables.items():
            adapter.log_table(key, table, step)
        adapter.log_summary({**_results(summary), **_best(trainer, summary)}, step)
    _log_files([adapter for adapter in adapters if adapter.takes_files], summary, folder)


def _log_files(adapters: list[ResultLogger], summary: RunSummary, folder: Path) -> None:
    """Give them the best checkpoint and the page about the run, which is written for them."""
    if not adapters:
        return
    from lsa_lightning.pages.report import write_run_page

    write_run_page(read_run(folder), folder / "report.html")
    files = {"report": folder / "report.html"}
    if summary.checkpoint is not None:
        files["model"] = Path(summary.checkpoint)
    for adapter in adapters:
        for kind, file in files.items():
            adapter.log_file(kind, file)


def _best(trainer: pl.Trainer, summary: RunSummary) -> dict[str, float | str]:
    """The best value of the metric that checkpoints are chosen by, and its epoch."""
    if summary.checkpoint_epoch is None:
        return {}
    monitor = getattr(trainer.checkpoint_callback, "monitor", None)
    best = {} if monitor not in summary.validation else {f"best/{monitor}": summary.validation[monitor]}
    return {**best, "best/epoch": summary.checkpoint_epoch}


def _results(summary: RunSummary) -> dict[str, float | str]:
    """R&G, accuracies, MVL and raised masking flags, each under a name that runs can be sorted and filtered by."""
    values: dict[str, float | str] = {}
    if summary.analysis is not None:
        values |= {"test/mvl": ", ".join(summary.analysis.mvl)}
        values |= {"test/mu": summary.analysis.mu, "test/sigma": summary.analysis.sigma}
    if summary.evaluation is not None:
        values |= {f"test/rg_score_{attack}": score for attack, score in summary.evaluation.rg_score.items()}
        for attack, row in summary.evaluation.accuracy.items():
            values["test/acc"], *rest = (accuracy / 100 for accuracy in row)  # shares, as val/acc_clean
            radii = zip(summary.evaluation.eps[1:], rest, strict=True)
            values |= {f"test/acc_{attack}_eps_{eps:g}": share for eps, share in radii}
        values["test/masking"] = Evaluation(summary.evaluation, summary.masking).flags_in_words
    return values


@contextmanager
def closed(loggers: list[ResultLogger]) -> Iterator[None]:
    """Tell the loggers at the end how the job went."""
    failed = True
    try:
        yield
        failed = False
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of Ctrl-C into the other
        for logger in loggers:
            logger.interrupt()
        raise
    finally:
        for logger in loggers:
            logger.finish(failed)


def validated_at(callbacks: Iterable[pl.Callback]) -> str:
    """The radius of the attacks of :class:`~lsa_lightning.RobustValidation`, in words; nothing without it."""
    found = [callback for callback in callbacks if isinstance(callback, RobustValidation)]
    return radius_in_words(attack for callback in found for attack in callback.attacks.values())
