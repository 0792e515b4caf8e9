"""Training many seeds at once: what ``lsa-train`` does with ``seeds``."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing import parent_process
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.callbacks import TrainingProgress
from lsa_lightning.comparison.next_step import show_seeds
from lsa_lightning.jobs.attempt import Attempt, noted, running
from lsa_lightning.jobs.cluster import without_srun_hint
from lsa_lightning.jobs.ending import closed
from lsa_lightning.runs.console import show
from lsa_lightning.runs.folder import (
    output_dir,
    resolved_but_for_environment,
    save_command,
    save_config,
    typed_overrides,
)
from lsa_lightning.runs.installed import check_installed
from lsa_lightning.runs.kinds import JOB
from lsa_lightning.runs.loggers import result_loggers
from lsa_lightning.runs.signals import Signals
from lsa_lightning.runs.summary import RunSummary
from lsa_lightning.runs.whole_checkpoint import plugins_of
from lsa_lightning.stacked.job import SeedJob, check_supported
from lsa_lightning.stacked.progress import MeanProgress, SeedStatus
from lsa_lightning.stacked.results import measure_and_write
from lsa_lightning.stacked.training import SeedCallbacks, StackedData, StackedTraining
from lsa_lightning.utils.checks import integer, or_none, sequence
from lsa_lightning.utils.processes import can_fork, run_apart
from lsa_lightning.utils.progress import say


def train_seeds(cfg: DictConfig) -> list[RunSummary]:
    """Train the seeds that ``cfg.seeds`` lists at once, each into a run folder ``seed=<seed>`` of Hydra's.

    A seed's folder is what ``lsa-train`` with that seed alone writes, but for ``train.log``, which lies beside the
    seeds' folders and is about all of them. ``checkpoints/last.ckpt`` is written when training is over; from it, a
    finished seed goes on alone, as ``lsa-train resume=RUN/seed=0 trainer.max_epochs=100``.

    On a CPU the seeds are shared out to as many processes as torch has threads, of which the first says how far it is,
    unless they are fewer than half as many.

    Started again in the same folder, or with ``lsa-train resume=RUN``, it leaves finished seeds as they are, and trains
    the others from the beginning.

    Returns:
        The summary of each seed, in the order of the list.

    Raises:
        ValueError: if the list holds something else than different seeds, the configuration something that cannot be
            trained so, or a seed's folder the results of another configuration.
        Stopped: if a signal ends the job; unfinished seeds are ``interrupted`` then.
    """
    seeds, folder = checked_seeds(cfg.seeds), output_dir()
    configs = {seed: _config_of(cfg, seed) for seed in seeds}
    attempts = {
        seed: Attempt.of(resolved_but_for_environment(own), folder / f"seed={seed}") for seed, own in configs.items()
    }
    missing = {seed: attempt for seed, attempt in attempts.items() if not attempt.finished}
    if begun_anew := [attempt for attempt in missing.values() if attempt.was_finished]:
        msg = (
            f"expected {folder}, whose seeds are finished, to be gone on with as it is, since seeds that are trained "
            f"at once begin from the first epoch, got {'; '.join(begun_anew[0].changed)}. Go on with each seed alone: "
            f"resume={begun_anew[0].folder}"
        )
        raise ValueError(msg)
    if len(missing) < len(seeds):
        show(f"Finished before: seeds {', '.join(str(seed) for seed in seeds if seed not in missing)}")
    if missing:
        _run(cfg, {seed: configs[seed] for seed in missing}, missing)
    show_seeds([attempt.folder for attempt in attempts.values()], folder)
    return [RunSummary.load(attempt.folder) for attempt in attempts.values()]


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


def _config_of(cfg: DictConfig, seed: int) -> DictConfig:
    """The configuration of one seed alone."""
    own = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(own, DictConfig)
    OmegaConf.set_struct(own, True)
    own.seed, own.seeds, own.paths.output_dir = seed, None, str(output_dir() / f"seed={seed}")
    return own


def _run(cfg: DictConfig, configs: Mapping[int, DictConfig], attempts: Mapping[int, Attempt]) -> None:
    """Train and measure these seeds, in one process or shared out to several."""
    for place in JOB:
        check_installed(cfg.get(place), place)
    with without_srun_hint():
        jobs = [SeedJob.of(own, attempts[seed].folder) for seed, own in configs.items()]
        check_supported(jobs[0], len(jobs))
        with running(list(attempts.values()), output_dir()) as signals:
            save_command(cfg, output_dir())
            shares = _shares(jobs, _processes(_threads(cfg), jobs))
            if len(shares) == 1:
                torch.set_num_threads(_threads(cfg))
                _train(cfg, jobs, attempts, signals)
            else:
                jobs[0].data.prepare_data()  # once: else each process would download what is missing
                train = partial(_train_apart, cfg, attempts)
                run_apart({_in_words(share): partial(train, share, shown=share is shares[0]) for share in shares})


def _threads(cfg: DictConfig) -> int:
    """A single run's threads would wait for each other; the rows of many models are worth several."""
    return max(or_none(integer, "lsa-train", "num_threads", cfg.num_threads, low=1) or 1, torch.get_num_threads())


def _processes(threads: int, jobs: Sequence[SeedJob]) -> int:
    """One where a GPU trains, or many threads would be left for few seeds; else one in place of each thread.

    Small tensors are not worth the wait of threads for each other. A forked process has one thread, as it must not use
    those of which its parent may have started some.
    """
    return threads if jobs[0].on_cpu and can_fork() and 2 * len(jobs) >= threads else 1


def _shares(jobs: Sequence[SeedJob], processes: int) -> list[list[SeedJob]]:
    """The jobs in at most so many shares of the same size, or of one more, in their order."""
    number = min(processes, len(jobs))
    ends = [len(jobs) * index // number for index in range(number + 1)]
    return [list(jobs[first:end]) for first, end in pairwise(ends)]


def _in_words(share: Sequence[SeedJob]) -> str:
    return f"seed{'s' if len(share) > 1 else ''} {', '.join(str(job.seed) for job in share)}"


def _train_apart(cfg: DictConfig, attempts: Mapping[int, Attempt], jobs: Sequence[SeedJob], *, shown: bool) -> None:
    """Train and measure a share of the seeds in a process of its own; one that is not shown does not say how far."""
    torch.set_num_threads(1)
    if not shown:
        for name in ("lightning.pytorch", "lightning.fabric", say.__module__):
            logging.getLogger(name).setLevel(logging.WARNING)
    waits = parent_process()
    own = [attempts[job.seed] for job in jobs]
    with Signals(waits=None if waits is None else waits.pid) as signals, noted(own, signals):
        _train(cfg, jobs, attempts, signals)


def _train(cfg: DictConfig, jobs: Sequence[SeedJob], attempts: Mapping[int, Attempt], signals: Signals) -> None:
    """Train and measure some seeds at once."""
    saved = [_save(job) for job in jobs]
    with closed(result_loggers(logger for job in jobs for logger in job.loggers)):
        for job, config in zip(jobs, saved, strict=True):
            for logger in job.loggers:
                if not isinstance(logger, CSVLogger):
                    logger.log_hyperparams(config)
        module = StackedTraining(jobs)
        status = SeedStatus(signals, [attempts[job.seed] for job in jobs])
        seconds = _fit(module, cfg, status)
        measure_and_write(module, status.attempts, seconds / len(jobs), signals)


def _save(job: SeedJob) -> dict[str, Any]:
    """Write the seed's configuration, and the command line of the run of it alone."""
    others = [each for each in typed_overrides() if not re.match(r"\+{0,2}seeds?=", each)]
    save_command(job.config, job.folder, [*others, f"seed={job.seed}"])
    return save_config(job.config, job.folder)


def _fit(module: StackedTraining, cfg: DictConfig, status: SeedStatus) -> float:
    """Train; the seconds that it took."""
    bars = [callback for callback in module.jobs[0].callbacks if isinstance(callback, ProgressBar)]
    shown = [MeanProgress(bar.shown, module.jobs) if type(bar) is TrainingProgress else bar for bar in bars]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[SeedCallbacks(module), status, *shown],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=plugins_of(cfg.trainer),
        _convert_="all",
    )
    started = time.perf_counter()
    trainer.fit(module, StackedData(module.jobs))
    return time.perf_counter() - started
