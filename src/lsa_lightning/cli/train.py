"""``lsa-train``: train, then analyse and evaluate, and write the run folder."""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.callbacks import ATLR, AdversarialTraining
from lsa_lightning.cli.overrides import with_listed_seeds, with_null_groups
from lsa_lightning.layers.report import AnalysedEpoch
from lsa_lightning.runs.checkpoint import checkpoint_file, split_loader
from lsa_lightning.runs.console import console, print_accuracies, print_analysis, print_masking
from lsa_lightning.runs.first_batch import FirstBatchChecks
from lsa_lightning.runs.folder import output_dir, save_config, versions
from lsa_lightning.runs.loggers import ResultLogger, pixels_of, result_loggers
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage
from lsa_lightning.runs.summary import AnalysisSummary, RunSummary
from lsa_lightning.runs.write import draw_inputs, write_analysis, write_evaluation, write_history, write_table
from lsa_lightning.utils.checks import instance, or_none
from lsa_lightning.utils.paths import CONF_DIR


@dataclass(frozen=True, eq=False)
class Job:
    """The objects of a job, made from its configuration once, before anything runs.

    Attributes:
        data: the data.
        model: the model.
        callbacks: the trainer's callbacks.
        loggers: the trainer's loggers.
        trainer: the trainer.
        analysis: the stage of the analysis; None: left out.
        evaluation: the stage of the evaluation and the masking checks; None: left out.
    """

    data: pl.LightningDataModule
    model: pl.LightningModule
    callbacks: list[pl.Callback]
    loggers: list[Logger]
    trainer: pl.Trainer
    analysis: AnalysisStage | None
    evaluation: EvaluationStage | None

    @classmethod
    def of(cls, cfg: DictConfig) -> Job:
        """Instantiate every node."""
        data = instantiate(cfg.data, _convert_="all")
        model = instantiate(cfg.model, _convert_="all")
        callbacks, loggers = _instances(cfg.callbacks), _instances(cfg.get("logger"))
        analysis, evaluation = _stage(cfg.get("analysis")), _stage(cfg.get("evaluation"))
        checks = FirstBatchChecks(analysis)
        trainer = instantiate(cfg.trainer, callbacks=[checks, *callbacks], logger=loggers, _convert_="all")
        return cls(data, model, callbacks, loggers, trainer, analysis, evaluation)


def train(cfg: DictConfig) -> RunSummary | None:
    """Run one job in Hydra's run folder and return what ``summary.json`` holds.

    With several processes, all of them train; what comes then is done by the first alone, and the others return None.
    """
    folder = output_dir()
    config = save_config(cfg, folder)
    if cfg.ckpt_path is not None:
        checkpoint_file(cfg.ckpt_path)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    pl.seed_everything(cfg.seed, workers=True)
    job = Job.of(cfg)
    check_job(cfg, job)
    with _closed(result_loggers(job.loggers)):
        for logger in job.loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml lies beside metrics.csv
                logger.log_hyperparams(config)
        started = time.perf_counter()
        job.trainer.fit(job.model, job.data, ckpt_path=cfg.ckpt_path)
        seconds = time.perf_counter() - started
        if _is_done_after_training(job.trainer):
            return None
        checkpoint, checkpoint_epoch = _load_best(job.trainer, job.model)
        job.model.to(job.trainer.strategy.root_device)  # fit leaves it on the CPU
        analysis, evaluation = _measure(job, folder)
        history = _history(job.callbacks)
        write_history(history, folder)
        summary = RunSummary(
            name=cfg.name,
            seed=cfg.seed,
            trained=_what_was_trained(cfg, job.callbacks),
            epochs=job.trainer.current_epoch,
            training_seconds=round(seconds, 2),
            checkpoint=checkpoint,
            checkpoint_epoch=checkpoint_epoch,
            validation=_validation_metrics(job.trainer),
            analysis=None if analysis is None else AnalysisSummary.of(analysis),
            evaluation=None if evaluation is None else evaluation.table,
            masking={} if evaluation is None else evaluation.masking,
            history=history,
            versions=versions(),
        )
        summary.save(folder)
        _log_results(job.loggers, summary, folder, job.trainer.global_step)
    _print_end(summary, folder)
    return summary


def _instances(node: DictConfig | None) -> list[Any]:
    """The objects of a group; entries set to null are left out."""
    return [instantiate(entry, _convert_="all") for entry in (node or {}).values() if entry is not None]


def _stage(node: DictConfig | None) -> Any:
    """The object of a stage; None where its group is set to null, even if the data set left its radii there."""
    return instantiate(node, _convert_="all") if node is not None and "_target_" in node else None


@contextmanager
def _closed(loggers: list[ResultLogger]) -> Iterator[None]:
    """Tell the loggers at the end how the job went."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            logger.finish(failed)


def _is_done_after_training(trainer: pl.Trainer) -> bool:
    """Whether this is a process besides the first. The first goes on as if it had always been alone."""
    if dist.is_initialized():
        dist.destroy_process_group()  # else metrics would wait for the others
    return not trainer.is_global_zero


def _load_best(trainer: pl.Trainer, model: pl.LightningModule) -> tuple[str | None, int | None]:
    """Put the best checkpoint's weights into ``model``; without one, the last weights stay.

    Returns:
        Its file and epoch.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        return None, None
    checkpoint = torch.load(path, map_location=model.device, weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    return str(path), int(checkpoint["epoch"])


def _measure(job: Job, folder: Path) -> tuple[Analysis | None, Evaluation | None]:
    """The stages after training, on the test split; each writes and prints what it found as soon as it is there."""
    analysis, evaluation = None, None
    if job.analysis is None and job.evaluation is None:
        return analysis, evaluation
    loader = split_loader(job.data, "test")
    if job.analysis is not None:
        analysis = job.analysis.run(job.model, loader)
        write_analysis(analysis, folder)
        print_analysis(analysis)
    if job.evaluation is not None:
        table = job.evaluation.run(job.model, loader)
        write_table(table, folder)
        print_accuracies({"": table})
        evaluation = Evaluation(table, job.evaluation.check(job.model, loader))
        write_evaluation(evaluation, folder)
        print_masking(evaluation.masking)
        if job.evaluation.drawn is not None:
            draw_inputs(job.model, loader, job.evaluation.drawn, folder)
    return analysis, evaluation


def _what_was_trained(cfg: DictConfig, callbacks: list[pl.Callback]) -> dict[str, str]:
    """Model, data and method in words."""
    method = next((callback for callback in callbacks if isinstance(callback, AdversarialTraining)), None)
    parts = ("attack", "objective", "regularizer")
    return {
        "model": cfg.model.get("backbone", cfg.model)._target_,
        "data": OmegaConf.select(cfg, "data.dataset_cls.path") or cfg.data._target_,
        "method": "normal" if method is None else type(method).__name__,
        **{part: repr(getattr(method, part)) for part in parts if hasattr(method, part)},
    }


def _history(callbacks: list[pl.Callback]) -> list[AnalysedEpoch]:
    """What the analyses during training found."""
    return [entry for callback in callbacks if isinstance(callback, ATLR) for entry in callback.history]


def _validation_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """The ``val/...`` metrics of the last validation run; of the one that checkpoints are chosen by, the best."""
    values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    chooser = trainer.checkpoint_callback
    best = getattr(chooser, "best_model_score", None)
    return values if best is None else {**values, str(chooser.monitor): float(best)}  # type: ignore[union-attr]


def _log_results(loggers: list[Logger], summary: RunSummary, folder: Path, step: int) -> None:
    """Give figures, tables and results of the run folder to the loggers that keep them elsewhere."""
    import pandas as pd

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
        adapter.log_summary(_results(summary), step)


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
        raised = ", ".join(name for name, flag in summary.masking.items() if flag.raised) or "none"
        values["test/masking"] = raised if summary.masking else "not checked"
    return values


def _print_end(summary: RunSummary, folder: Path) -> None:
    if summary.evaluation is not None:
        scores = ", ".join(f"{score:.2f} under {attack}" for attack, score in summary.evaluation.rg_score.items())
        console.print(f"R&G: {scores}")
    console.print(f"Trained in {summary.training_seconds:.1f} s. Run folder: {folder}", soft_wrap=True)
    console.print("  " + "  ".join(sorted(p.name for p in folder.iterdir() if p.name[0] != ".")), soft_wrap=True)


def check_job(cfg: DictConfig, job: Job) -> None:
    """Raise a ValueError, before training, for what would only be noticed after it."""
    check_optimized_metric(cfg.optimized_metric, job)
    if job.analysis is not None:
        job.analysis.check_names(job.model)


def check_optimized_metric(name: str | None, job: Job) -> None:
    """Raise a ValueError, before training, for a metric that no stage of the job measures.

    That of a stage that was left out is allowed, since any sweep may leave stages out; it is NaN then.
    """
    or_none(instance, "lsa-train", "optimized_metric", name, str, what="a name")
    evaluated = name is not None and name.startswith(("accuracy/", "rg_score/"))
    if name is None or name.startswith("val/") or (evaluated and job.evaluation is None):
        return
    known = ["mu", "sigma", *([] if job.evaluation is None else job.evaluation.metrics)]
    if name not in known:
        msg = f"expected optimized_metric to be one of {', '.join(known)}, a val/... of training, or null, got {name!r}"
        raise ValueError(msg)


def optimized(summary: RunSummary, name: str | None) -> float:
    """The metric that a sweeper optimises; NaN for none, and for that of a stage that was left out.

    Raises:
        ValueError: for a ``val/...`` that was not logged.
    """
    metrics = summary.metrics
    if name is not None and name.startswith("val/") and name not in metrics:
        logged = [key for key in metrics if key.startswith("val/")]
        msg = f"expected optimized_metric to be among what validation logged, {', '.join(logged)}, got {name!r}"
        raise ValueError(msg)
    return metrics.get(name, math.nan) if name is not None else math.nan


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def _main(cfg: DictConfig) -> float:
    """One job; returns the metric that ``optimized_metric`` names, for sweepers that optimise it."""
    if not (output_dir() / "metrics.csv").exists():  # only Hydra's own files are there before the CSV logger comes
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    if cfg.seeds is not None:
        from lsa_lightning.stacked.train import train_seeds

        return statistics.fmean(optimized(summary, cfg.optimized_metric) for summary in train_seeds(cfg))
    summary = train(cfg)
    return math.nan if summary is None else optimized(summary, cfg.optimized_metric)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = with_listed_seeds(with_null_groups(sys.argv[1:]))
    _main()


if __name__ == "__main__":
    main()
