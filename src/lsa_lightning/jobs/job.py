"""The objects of a job, and what of its configuration is checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.jobs.acceleration import accelerate
from lsa_lightning.jobs.ending import NotedValidation
from lsa_lightning.jobs.first_batch import FirstBatchChecks
from lsa_lightning.jobs.optimized_metric import check_optimized_metric
from lsa_lightning.jobs.trainer import check_trainer
from lsa_lightning.runs.checkpoint import split_loader
from lsa_lightning.runs.limits import check_limit, first_batches
from lsa_lightning.runs.stages import AnalysisStage, EvaluationStage
from lsa_lightning.runs.whole_checkpoint import plugins_of
from lsa_lightning.utils.precision import has_bfloat16


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
        check_trainer(cfg.trainer)
        shown = cfg.trainer.get("enable_progress_bar") is not False
        cfg = cfg if shown else _without_progress(cfg)
        data = instantiate(cfg.data, _convert_="all")
        model = instantiate(cfg.model, _convert_="all")
        compiled: Any = OmegaConf.to_container(cfg.compile) if OmegaConf.is_config(cfg.compile) else cfg.compile
        accelerate(model, compiled=compiled, channels_last=cfg.channels_last)
        callbacks, loggers = _instances(cfg.callbacks), _instances(cfg.get("logger"))
        callbacks = [callback for callback in callbacks if shown or not isinstance(callback, ProgressBar)]
        analysis, evaluation = _stage(cfg.get("analysis")), _stage(cfg.get("evaluation"))
        checks = FirstBatchChecks(analysis)
        trainer = instantiate(
            cfg.trainer,
            callbacks=[checks, NotedValidation(), *callbacks],
            logger=loggers,
            plugins=plugins_of(cfg.trainer),
            _convert_="all",
        )
        return cls(data, model, callbacks, loggers, trainer, analysis, evaluation)

    def test_batches(self) -> Iterable[Any]:
        """The batches of the test split, as many of them as the trainer's ``limit_test_batches`` lets through."""
        return first_batches(split_loader(self.data, "test"), self.trainer.limit_test_batches)


def _without_progress(cfg: DictConfig) -> DictConfig:
    """``cfg`` with stages that do not say how far they are."""
    silent = cfg.copy()
    for stage in ("analysis", "evaluation"):
        if "progress" in (silent.get(stage) or {}):
            silent[stage].progress = False
    return silent


def _instances(node: DictConfig | None) -> list[Any]:
    """The objects of a group; entries set to null are left out."""
    return [instantiate(entry, _convert_="all") for entry in (node or {}).values() if entry is not None]


def _stage(node: DictConfig | None) -> Any:
    """The object of a stage; None where its group is set to null, even if the data set left its radii there."""
    return instantiate(node, _convert_="all") if node is not None and "_target_" in node else None


def check_job(cfg: DictConfig, job: Job) -> None:
    """Raise a ValueError, before training, for what would only be noticed after it; warn of what takes long."""
    check_optimized_metric(cfg.optimized_metric, job.evaluation)
    if job.trainer.precision.startswith("bf16") and not has_bfloat16(job.trainer.strategy.root_device):
        rank_zero_warn(
            f"trainer.precision={job.trainer.precision} may take ten times as long as 32-true here: this CPU has no "
            "instructions for bfloat16."
        )
    if job.analysis is not None or job.evaluation is not None:
        check_limit(job.trainer.limit_test_batches)
    if job.analysis is not None:
        job.analysis.check_names(job.model)
