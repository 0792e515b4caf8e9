"""Training many seeds at once: what ``lsa-train`` does with ``seeds``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.cli.train import _closed, _history, _load_best, _log_results, _validation_metrics, _what_was_trained
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.checkpoint import split_loader
from lsa_lightning.runs.console import console
from lsa_lightning.runs.folder import output_dir, save_config, versions
from lsa_lightning.runs.loggers import result_loggers
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage
from lsa_lightning.runs.summary import SUMMARY_FILE, AnalysisSummary, RunSummary
from lsa_lightning.runs.write import draw_inputs, write_analysis, write_evaluation, write_history, write_table
from lsa_lightning.stacked.job import SeedJob, check_supported
from lsa_lightning.stacked.measure import StackedAnalysis, evaluate
from lsa_lightning.stacked.network import load, stack
from lsa_lightning.stacked.training import SeedCallbacks, StackedData, StackedTraining
from lsa_lightning.utils.checks import integer, sequence


def train_seeds(cfg: DictConfig) -> list[RunSummary]:
    """Train the seeds that ``cfg.seeds`` lists at once, each into a run folder ``seed=<seed>`` of Hydra's.

    A seed's folder is what ``lsa-train`` with that seed alone writes. Started again in the same folder, it leaves
    seeds that have their ``summary.json`` as they are, and trains the others from the beginning.

    Returns:
        The summary of each seed, in the order of the list.

    Raises:
        ValueError: if the list holds something else than different seeds, or the configuration something that cannot
            be trained so.
    """
    seeds, folder = checked_seeds(cfg.seeds), output_dir()
    folders = {seed: folder / f"seed={seed}" for seed in seeds}
    missing = [seed for seed in seeds if not (folders[seed] / SUMMARY_FILE).is_file()]
    if len(missing) < len(seeds):
        console.print(f"Finished before: seeds {', '.join(str(seed) for seed in seeds if seed not in missing)}")
    if missing:
        _train({seed: folders[seed] for seed in missing}, cfg)
    return [RunSummary.load(path) for path in folders.values()]


def checked_seeds(seeds: Any) -> list[int]:
    """``seeds``, if it is a list of different integers >= 0, at least one.

    Raises:
        ValueError: else.

    Example:
        >>> checked_seeds([0, 1, 1])
        Traceback (most recent call last):
        ValueError: expected different seeds, got 1 twice
    """
    values = OmegaConf.to_container(seeds) if OmegaConf.is_config(seeds) else seeds
    numbers: list[int] = sequence("lsa-train", "seeds", values, integer, low=0)
    twice = next((seed for seed in numbers if numbers.count(seed) > 1), None)
    if twice is not None:
        msg = f"expected different seeds, got {twice} twice"
        raise ValueError(msg)
    return numbers


def _train(folders: dict[int, Path], cfg: DictConfig) -> None:
    if cfg.num_threads is not None:
        torch.set_num_threads(_threads(cfg))
    jobs = [SeedJob.of(_config_of(cfg, seed, folder), folder) for seed, folder in folders.items()]
    check_supported(jobs[0], len(jobs))
    configs = [save_config(job.config, job.folder) for job in jobs]
    with _closed(result_loggers(logger for job in jobs for logger in job.loggers)):
        for job, config in zip(jobs, configs, strict=True):
            for logger in job.loggers:
                if not isinstance(logger, CSVLogger):
                    logger.log_hyperparams(config)
        module = StackedTraining(jobs)
        seconds = _fit(module, cfg)
        net, checkpoints = _best(module)
        _measure_and_write(module, net, checkpoints, seconds / len(jobs))


def _threads(cfg: DictConfig) -> int:
    """A single run's threads would wait for each other; the rows of many models are worth several."""
    return max(int(cfg.num_threads), torch.get_num_threads())


def _config_of(cfg: DictConfig, seed: int, folder: Path) -> DictConfig:
    """The configuration of one seed alone."""
    own = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(own, DictConfig)
    OmegaConf.set_struct(own, True)
    own.seed, own.seeds, own.paths.output_dir = seed, None, str(folder)
    return own


def _fit(module: StackedTraining, cfg: DictConfig) -> float:
    """Train; the seconds that it took."""
    shown = [callback for callback in module.jobs[0].callbacks if isinstance(callback, ProgressBar)]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[SeedCallbacks(module), *shown],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        _convert_="all",
    )
    started = time.perf_counter()
    trainer.fit(module, StackedData(module.jobs))
    return time.perf_counter() - started


def _best(module: StackedTraining) -> tuple[Any, list[tuple[str | None, int | None]]]:
    """The best weights of each seed, stacked, and where they are from."""
    checkpoints = []
    for index, (job, view) in enumerate(zip(module.jobs, module.views, strict=True)):
        load(module.net, index, into=job.model)
        checkpoints.append(_load_best(view, job.model))
    models = [job.model for job in module.jobs]
    for model in models:
        model.to(module.device)
    return stack(models).to(module.device), checkpoints


def _measure_and_write(
    module: StackedTraining, net: Any, checkpoints: list[tuple[str | None, int | None]], seconds: float
) -> None:
    jobs = module.jobs
    first = jobs[0]
    needed = first.analysis is not None or first.evaluation is not None
    loaders: list[Any] = [split_loader(job.data, "test") if needed else None for job in jobs]
    analyses = [None] * len(jobs) if first.analysis is None else _analyse(first.analysis, module, net, loaders)
    tables = [None] * len(jobs) if first.evaluation is None else _evaluate(first.evaluation, net, loaders)
    for index, job in enumerate(jobs):
        pl.seed_everything(job.seed, verbose=False)
        analysis, table, evaluation = analyses[index], tables[index], None
        if analysis is not None:
            write_analysis(analysis, job.folder)
        if job.evaluation is not None and table is not None:
            write_table(table, job.folder)
            evaluation = Evaluation(table, job.evaluation.check(job.model, loaders[index]))
            write_evaluation(evaluation, job.folder)
            if job.evaluation.drawn is not None:
                draw_inputs(job.model, loaders[index], job.evaluation.drawn, job.folder)
        history, view = _history(job.callbacks), module.views[index]
        write_history(history, job.folder)
        summary = RunSummary(
            name=job.config.name,
            seed=job.seed,
            trained=_what_was_trained(job.config, job.callbacks),
            epochs=view.current_epoch,
            training_seconds=round(seconds, 2),
            checkpoint=checkpoints[index][0],
            checkpoint_epoch=checkpoints[index][1],
            validation=_validation_metrics(view),
            analysis=None if analysis is None else AnalysisSummary.of(analysis),
            evaluation=table,
            masking={} if evaluation is None else evaluation.masking,
            history=history,
            versions=versions(),
        )
        summary.save(job.folder)
        _log_results(job.loggers, view, summary, job.folder)
        _print(summary, job.folder)


def _analyse(stage: AnalysisStage, module: StackedTraining, net: Any, loaders: Sequence[Any]) -> list[Analysis]:
    """Each seed's analysis under each attack."""
    models = [job.model for job in module.jobs]
    stacked = StackedAnalysis(net, models, stage.layers, stage.measure)
    reports: list[dict[str, SustainabilityReport]] = [{} for _ in models]
    for name, attack in stage.attacks.items():
        found = stacked.run(_together(loaders, stage.limit_batches), attack, module.seeds)
        for own, report in zip(reports, found, strict=True):
            own[name] = report
    return [
        Analysis(own, stage.mvl_from, own[stage.mvl_from].most_vulnerable(stage.eta, stage.top_k)) for own in reports
    ]


def _evaluate(stage: EvaluationStage, net: Any, loaders: Sequence[Any]) -> list[Any]:
    return evaluate(stage.evaluation, net, _together(loaders, None), len(loaders))


def _together(loaders: Sequence[Any], limit: int | None) -> Iterator[tuple[Any, ...]]:
    """One batch of each loader at a time."""
    for index, batches in enumerate(zip(*loaders, strict=True)):
        if limit is not None and index == limit:
            return
        yield batches


def _print(summary: RunSummary, folder: Path) -> None:
    scores = {} if summary.evaluation is None else summary.evaluation.rg_score
    shown = ", ".join(f"R&G {score:.2f} under {attack}" for attack, score in scores.items())
    console.print(f"Seed {summary.seed}: {shown or 'trained'}. Run folder: {folder}", soft_wrap=True)
