"""One job: train, then analyse and evaluate, and write the run folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.jobs.acceleration import use_threads
from lsa_lightning.jobs.attempt import Attempt, NotedEpochs, note_rank, running
from lsa_lightning.jobs.cluster import without_srun_hint
from lsa_lightning.jobs.ending import closed, history_of, load_best, log_results, validated_at, what_was_trained
from lsa_lightning.jobs.finished_stages import EVALUATION_STATE, FinishedStages, read_analysis, read_masking
from lsa_lightning.jobs.job import Job, check_job
from lsa_lightning.runs.checkpoint import checkpoint_file
from lsa_lightning.runs.console import console, print_accuracies, print_analysis, print_masking, show
from lsa_lightning.runs.folder import (
    figures_of,
    output_dir,
    resolved_but_for_environment,
    save_command,
    save_config,
    versions,
)
from lsa_lightning.runs.installed import check_installed
from lsa_lightning.runs.kinds import JOB
from lsa_lightning.runs.last_checkpoint import LastCheckpoint
from lsa_lightning.runs.loggers import result_loggers
from lsa_lightning.runs.signals import Signals
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage
from lsa_lightning.runs.summary import AnalysisSummary, RunSummary
from lsa_lightning.runs.trust import Trust
from lsa_lightning.runs.write import (
    write_analysis,
    write_evaluation,
    write_history,
    write_observed,
    write_table,
    write_training,
)
from lsa_lightning.utils.distributed import by_first, take_weights_of_first, together


def train(cfg: DictConfig) -> RunSummary | None:
    """Run one job in Hydra's run folder and return what ``summary.json`` holds.

    A folder that holds a checkpoint of the same configuration is gone on with, and a finished job is not run again.
    With several processes, all of them train, and share the batches of analysis and evaluation; what comes then is done
    by the first alone, as is all writing, and the others return None.

    Raises:
        ValueError: if the folder holds another configuration's, before anything in it is changed.
        Stopped: if a signal ends the job.
    """
    note_rank()
    folder = output_dir()
    config = resolved_but_for_environment(cfg)
    if cfg.resume is not None:
        _check_trust(cfg, config)
    attempt = Attempt.of(config, folder)
    if attempt.finished:
        show("Nothing is left to do: this job is finished.", f"Run folder: {folder}")
        return RunSummary.load(folder)
    for place in JOB:
        check_installed(config.get(place), place)
    if cfg.ckpt_path is not None:
        checkpoint_file(cfg.ckpt_path)
    with running([attempt], folder) as signals, without_srun_hint():
        return _run(cfg, attempt, signals)


def _check_trust(cfg: DictConfig, config: dict[str, Any]) -> None:
    """End with one line where the overrides of a run that is gone on with name what its maker must be trusted for."""
    try:
        Trust.of(cfg.trust).check(OmegaConf.create(config), JOB)
    except ValueError as error:
        msg = f"lsa-train: {cfg.resume}: {error}"
        raise SystemExit(msg) from error


def _run(cfg: DictConfig, attempt: Attempt, signals: Signals) -> RunSummary | None:
    """Train and measure, from where the attempt before ended."""
    folder = attempt.folder
    config = save_config(cfg, folder)
    save_command(cfg, folder)
    use_threads("lsa-train", cfg.num_threads)
    pl.seed_everything(cfg.seed, workers=True)
    job = Job.of(cfg)
    check_job(cfg, job)
    with _ending_others(job.trainer), closed(result_loggers(job.loggers)), figures_of(cfg.name, cfg.seed):
        for logger in job.loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml lies beside metrics.csv
                logger.log_hyperparams(config)
        seconds = _fit(job, attempt, signals, attempt.checkpoint or cfg.ckpt_path)
        job.model.to(job.trainer.strategy.root_device)  # fit leaves it on the CPU
        kept = by_first(partial(load_best, job.trainer, job.model))
        take_weights_of_first(job.model)
        if str(job.trainer.precision).endswith("-true"):
            job.model.float()  # as lsa-evaluate has it, for data that Lightning does not convert any more
        if job.analysis is not None or job.evaluation is not None:
            by_first(partial(show, f"Measured: {kept.in_words(job.trainer.current_epoch)}"))
        analysis, table = _measure(job, cfg, folder)
        signals.check()  # Python swallows what a handler raises in a finalizer
        if _is_done_after_measuring(job.trainer):
            return None
        evaluation = None if table is None else _check(job, cfg.evaluation, table, folder)
        signals.check()
        history = history_of(job.callbacks)
        write_history(history, folder)
        write_training(folder, kept.epoch, validated_at(job.callbacks), kept.monitor or "", kept.step)
        summary = RunSummary(
            name=cfg.name,
            seed=cfg.seed,
            trained=what_was_trained(cfg, job.callbacks),
            epochs=job.trainer.current_epoch,
            training_seconds=round(seconds, 2),
            checkpoint=kept.file,
            checkpoint_epoch=kept.epoch,
            checkpoint_step=kept.step,
            validation=kept.validation,
            analysis=None if analysis is None else AnalysisSummary.of(analysis),
            evaluation=None if evaluation is None else evaluation.table,
            masking={} if evaluation is None else evaluation.masking,
            history=history,
            versions=versions(),
        )
        summary.save(folder)
        log_results(job.loggers, job.trainer, summary, folder)
    _print_end(summary, folder)
    return summary


def _fit(job: Job, attempt: Attempt, signals: Signals, checkpoint: str | Path | None) -> float:
    """Train, from a checkpoint if there is one; the seconds that it took, over all attempts.

    Raises:
        Stopped: if a signal came.
    """
    if checkpoint is not None:
        show(f"Going on from {checkpoint}")
    keepers = [callback for callback in job.callbacks if isinstance(callback, LastCheckpoint)]
    for keeper in keepers:
        keeper.signals = signals
    job.trainer.callbacks.insert(0, NotedEpochs(attempt))  # type: ignore[attr-defined]
    started = time.perf_counter()
    job.trainer.fit(job.model, job.data, ckpt_path=checkpoint)
    signals.release()
    return time.perf_counter() - started + sum(keeper.seconds_before for keeper in keepers)


@contextmanager
def _ending_others(trainer: pl.Trainer) -> Iterator[None]:
    """An error or a signal in the first process ends those that it started, which might wait for it for long."""
    try:
        yield
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # SIGTERM ends none that waits for a GPU
        raise


def _is_done_after_measuring(trainer: pl.Trainer) -> bool:
    """Whether this is a process besides the first. The first goes on as if it had always been alone."""
    if dist.is_initialized():
        dist.destroy_process_group()  # else metrics would wait for the others
    return not trainer.is_global_zero


def _measure(job: Job, cfg: DictConfig, folder: Path) -> tuple[Analysis | None, RobustnessTable | None]:
    """What all processes do after training, on the test split; the first writes and prints as soon as it can.

    What an earlier attempt found of the same weights, with the same settings, is read back.
    """
    analysis, table = None, None
    finished = FinishedStages(folder, job.model)
    finished.remove_outdated()
    if job.analysis is None and job.evaluation is None:
        return analysis, table
    with together():
        loader = job.test_batches()
    if job.analysis is not None:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)  # whatever was drawn before, in this attempt
        analysis = _analyse(job.analysis, job.model, cfg.analysis, loader, finished)
        by_first(partial(print_analysis, analysis))
    if job.evaluation is not None:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        finished.begin_evaluation(cfg.evaluation)
        table = job.evaluation.run(job.model, loader, folder / EVALUATION_STATE)
        by_first(partial(_show_table, table, folder, job.evaluation))
    return analysis, table


def _analyse(
    stage: AnalysisStage, model: pl.LightningModule, settings: DictConfig, loader: Any, finished: FinishedStages
) -> Analysis:
    if finished.has("analysis", settings):
        return by_first(partial(read_analysis, stage, finished.folder))
    finished.forget("analysis")
    analysis = stage.run(model, loader)
    by_first(partial(write_analysis, analysis, finished.folder))
    finished.add("analysis", settings)
    return analysis


def _show_table(table: RobustnessTable, folder: Path, stage: EvaluationStage) -> None:
    write_table(table, folder, stage.unit)
    print_accuracies({"": table}, steps=stage.steps_in_words)


def _check(job: Job, settings: DictConfig, table: RobustnessTable, folder: Path) -> Evaluation:
    """What the first process does alone: the masking checks, and a look at single samples."""
    assert job.evaluation is not None  # else there is no table
    loader = job.test_batches()
    finished = FinishedStages(folder, job.model)
    if finished.has("masking", settings):
        evaluation = Evaluation(table, read_masking(folder))
        write_evaluation(evaluation, folder)  # writing the table anew has forgotten the flags
    else:
        finished.forget("masking")
        write_evaluation(Evaluation(table, {}), folder)  # the checks take long, and may be interrupted
        evaluation = Evaluation(table, job.evaluation.check(job.model, loader))
        write_evaluation(evaluation, folder)
        finished.add("masking", settings)
    print_masking(evaluation.masking)
    write_observed(job.evaluation, job.model, loader, folder, job.analysis)
    return evaluation


def _print_end(summary: RunSummary, folder: Path) -> None:
    if summary.evaluation is not None:
        show(f"R&G: {summary.scores_in_words}")
    show(f"Trained in {summary.training_seconds:.1f} s", f"Run folder: {folder}")
    console.print("  " + "  ".join(sorted(p.name for p in folder.iterdir() if p.name[0] != ".")), soft_wrap=True)
