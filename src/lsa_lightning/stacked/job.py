"""The job of one seed among several that are trained at once, and what such jobs cannot do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.types import LRSchedulerConfig
from omegaconf import DictConfig

from lsa_lightning.attacks import Attack, Ensemble, Square
from lsa_lightning.attacks.composite import CompositeAttack
from lsa_lightning.attacks.external import ExternalAttack
from lsa_lightning.attacks.losses import WatchingLoss
from lsa_lightning.callbacks import ATLR, AdversarialTraining, LearningRate, ReportLogger, RobustValidation
from lsa_lightning.jobs.ending import NotedValidation
from lsa_lightning.jobs.first_batch import FirstBatchChecks
from lsa_lightning.jobs.job import Job, check_job
from lsa_lightning.runs.checkpoint import split_loader
from lsa_lightning.runs.last_checkpoint import LastCheckpoint
from lsa_lightning.runs.limits import first_batches
from lsa_lightning.runs.stages import AnalysisStage, EvaluationStage
from lsa_lightning.stacked.draws import OwnRandom
from lsa_lightning.stacked.network import check_stackable

INSTEAD = "train the seeds one after another instead: -m seed=0,1,2"

_CALLBACKS = (
    FirstBatchChecks,
    LastCheckpoint,
    LearningRate,
    ModelCheckpoint,
    ModelSummary,
    NotedValidation,
    ProgressBar,
    ReportLogger,
    RobustValidation,
)
_LOGGERS = (CSVLogger, TensorBoardLogger)
_OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")
_MOST_WEIGHTS = 50_000_000


@dataclass(frozen=True, eq=False)
class SeedJob:
    """What a job of one seed is made of.

    Attributes:
        seed: the seed.
        config: the configuration with which ``lsa-train`` would train it alone.
        folder: its run folder.
        data: its data.
        model: its model.
        callbacks: the callbacks, in the order in which a Trainer runs them.
        loggers: its loggers.
        analysis: the stage of the analysis; None: left out.
        evaluation: the stage of the evaluation; None: left out.
        limit_test_batches: the trainer's.
        on_cpu: whether the trainer trains on the CPU.
        random: the global random numbers that its data and callbacks draw.
    """

    seed: int
    config: DictConfig
    folder: Path
    data: pl.LightningDataModule
    model: pl.LightningModule
    callbacks: list[pl.Callback]
    loggers: list[Logger]
    analysis: AnalysisStage | None
    evaluation: EvaluationStage | None
    limit_test_batches: int | float | None
    on_cpu: bool
    random: OwnRandom = field(default_factory=OwnRandom)

    @classmethod
    def of(cls, config: DictConfig, folder: Path) -> SeedJob:
        """Make all objects, with the random numbers of the seed."""
        with _quiet():
            pl.seed_everything(config.seed, workers=True, verbose=False)
            job = Job.of(config)
            check_job(config, job)
        callbacks = job.trainer.callbacks  # type: ignore[attr-defined]
        parts = (job.data, job.model, callbacks, job.loggers, job.analysis, job.evaluation)
        on_cpu = job.trainer.strategy.root_device.type == "cpu"
        return cls(config.seed, config, folder, *parts, job.trainer.limit_test_batches, on_cpu)

    def test_batches(self) -> Iterable[Any]:
        """The batches of the test split, as many of them as the trainer's ``limit_test_batches`` lets through."""
        return first_batches(split_loader(self.data, "test"), self.limit_test_batches)

    @property
    def method(self) -> AdversarialTraining | None:
        """The callback that makes training adversarial."""
        return next((callback for callback in self.callbacks if isinstance(callback, AdversarialTraining)), None)

    @property
    def validations(self) -> list[RobustValidation]:
        """The callbacks that measure accuracies."""
        return [callback for callback in self.callbacks if isinstance(callback, RobustValidation)]

    @staticmethod
    def own_names(state: dict[str, Any]) -> dict[str, Any]:
        """The entries of the stacked module under the names of a single one."""
        return {name.removeprefix("net."): value for name, value in state.items()}


def check_supported(job: SeedJob, models: int) -> None:
    """Raise a ValueError that names what of ``job`` cannot be trained in ``models`` stacked copies."""
    found = [*_of_trainer(job.config), *_of_callbacks(job), *_of_model(job, models)]
    found += [f"the logger {type(each).__name__}" for each in job.loggers if not isinstance(each, _LOGGERS)]
    if found:
        names = ", ".join(dict.fromkeys(found))  # an attack may be one of training and of the analysis
        msg = f"seeds=... trains small models on one device, and does not support {names}; {INSTEAD}"
        raise ValueError(msg)


def _of_trainer(config: DictConfig) -> Iterator[str]:
    trainer = config.trainer
    allowed = {
        "devices": (1, "1"),
        "num_nodes": (1,),
        "strategy": ("auto",),
        "precision": ("32-true", "64-true", 32, 64, "32", "64"),
        "fast_dev_run": (False,),
        "barebones": (False,),
        "overfit_batches": (0, 0.0),
    }
    for name, values in allowed.items():
        if name in trainer and trainer[name] not in values:
            yield f"trainer.{name}={trainer[name]}"
    if trainer.get("gradient_clip_val") and trainer.get("gradient_clip_algorithm") != "value":
        yield "trainer.gradient_clip_val, which clips by the norm of all models together"
    if config.get("ckpt_path") is not None:
        yield "ckpt_path (a seed's folder can be resumed alone)"


def _of_callbacks(job: SeedJob) -> Iterator[str]:
    for callback in job.callbacks:
        if not isinstance(callback, (*_CALLBACKS, AdversarialTraining)):
            yield f"the callback {type(callback).__name__}"
        elif isinstance(callback, AdversarialTraining) and type(callback) not in (AdversarialTraining, ATLR):
            yield f"the callback {type(callback).__name__}, a subclass"
    yield from _of_method(job.method)
    for target in (each.target for each in (job.method, *job.validations) if each is not None):
        if target.backbone is not None:
            yield f"backbone={target.backbone}"
    for attack in _attacks(job):
        if isinstance(attack, ExternalAttack | Ensemble | Square):  # Square draws for the samples that are left
            yield f"the attack {type(attack).__name__}"
        elif isinstance(attack.loss_fn, WatchingLoss):
            yield f"the attack {type(attack).__name__}, which watches layers"
    if len([each for each in job.callbacks if isinstance(each, AdversarialTraining)]) > 1:
        yield "several callbacks that make training adversarial"


def _of_method(method: AdversarialTraining | None) -> Iterator[str]:
    if method is not None and method.alarm is not None:
        yield f"an alarm ({method.alarm!r})"
    if isinstance(method, ATLR) and method.unlabelled is not None:
        yield "unlabelled inputs"


def _attacks(job: SeedJob) -> Iterator[Attack]:
    stages = [job.analysis.attacks if job.analysis else {}, job.evaluation.evaluation.attacks if job.evaluation else {}]
    attacks = [attack for group in (*stages, *(each.attacks for each in job.validations)) for attack in group.values()]
    if job.method is not None:
        attacks.append(job.method.attack)
    if isinstance(job.method, ATLR):
        attacks.append(job.method.analysis_attack)
    while attacks:
        attack = attacks.pop()
        attacks += attack.attacks.values() if isinstance(attack, CompositeAttack) else []
        yield attack


def _of_model(job: SeedJob, models: int) -> Iterator[str]:
    try:
        check_stackable(job.model)
    except ValueError as error:
        yield f"the model: {error}"
    if not job.model.automatic_optimization:
        yield "manual optimization"
    weights = sum(parameter.numel() for parameter in job.model.parameters())
    if models * weights > _MOST_WEIGHTS:
        yield f"{models} models of {weights:,} weights, more than {_MOST_WEIGHTS:,} together"


def check_optimizers(optimizers: Sequence[torch.optim.Optimizer], schedulers: Sequence[LRSchedulerConfig]) -> None:
    """Raise a ValueError for an optimizer that does not treat each weight alone, or a schedule that a metric steers."""
    strange = [type(each).__name__ for each in optimizers if type(each).__name__ not in _OPTIMIZERS]
    if strange or len(optimizers) != 1:
        msg = f"expected one optimizer among {', '.join(_OPTIMIZERS)}, got {', '.join(strange) or len(optimizers)}; "
        raise ValueError(msg + INSTEAD)
    if any(each.reduce_on_plateau for each in schedulers):
        msg = "expected a schedule that is the same for all seeds, got one that steps down where a metric rests; "
        raise ValueError(msg + INSTEAD)


@contextmanager
def _quiet() -> Iterator[None]:
    """What a Trainer says of the hardware is said once, by the one that trains."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
