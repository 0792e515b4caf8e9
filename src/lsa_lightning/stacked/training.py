"""Training stacked models: each step is that of every seed, on its own batch, with its own objective and penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.combined_loader import _MaxSize
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lsa_lightning.callbacks import ATLR, AdversarialTraining, LearningRate, ReportLogger, RobustValidation
from lsa_lightning.callbacks.validation_loaders import ValidationLoaders
from lsa_lightning.evaluation import correct
from lsa_lightning.jobs.first_batch import FirstBatchChecks
from lsa_lightning.layers.outputs import OUTPUT
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.last_checkpoint import LastCheckpoint
from lsa_lightning.stacked.draws import draws_of
from lsa_lightning.stacked.job import INSTEAD, SeedJob, check_optimizers
from lsa_lightning.stacked.measure import StackedAnalysis, in_parts, joined
from lsa_lightning.stacked.network import split, stack
from lsa_lightning.stacked.view import EpochMeans, SeedTrainer
from lsa_lightning.steps.adversarial_step import AdversarialStep
from lsa_lightning.steps.request import Passes, StepRequest, loss_of
from lsa_lightning.utils.batch import read_batch, replace_tensor
from lsa_lightning.utils.isolation import RandomState
from lsa_lightning.utils.processes import run_all


class StackedData(pl.LightningDataModule):
    """The data of all seeds: a batch is a list with one batch of each."""

    def __init__(self, jobs: Sequence[SeedJob]) -> None:
        super().__init__()
        self.jobs = jobs

    def prepare_data(self) -> None:
        """Each seed's own."""
        for job in self.jobs:
            job.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Each seed's own."""
        for job in self.jobs:
            job.data.setup(stage or "fit")

    def train_dataloader(self) -> CombinedLoader:
        """Batches side by side."""
        return SeedLoaders([job.data.train_dataloader() for job in self.jobs], self.jobs)

    def val_dataloader(self) -> CombinedLoader:
        """Batches side by side."""
        return SeedLoaders([job.data.val_dataloader() for job in self.jobs], self.jobs)


class SeedLoaders(CombinedLoader):
    """Loaders side by side, each of which draws the random numbers of its own seed."""

    def __init__(self, loaders: Sequence[Any], jobs: Sequence[SeedJob]) -> None:
        super().__init__(list(loaders), "max_size")
        self._jobs = jobs

    def __iter__(self) -> SeedLoaders:
        """Begin an epoch."""
        drawing = [_Drawing(loader, job) for loader, job in zip(self.flattened, self._jobs, strict=True)]
        self._iterator = iter(_MaxSize(drawing, self._limits))  # type: ignore[arg-type]
        return self


class _Drawing:
    """The batches of a loader, drawn with the random numbers of its seed."""

    def __init__(self, loader: Any, job: SeedJob) -> None:
        self.loader = loader
        self.job = job

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        with self.job.random.used():
            batches = iter(self.loader)
        while True:
            with self.job.random.used():
                batch = next(batches, _DONE)
            if batch is _DONE:
                return
            yield batch


_DONE = object()


class StackedTraining(pl.LightningModule):
    """The models of all jobs as one module, whose loss is the sum of theirs.

    Each model's own ``training_step`` and ``validation_step`` run on its own batch, and get the model's rows of one
    pass of all where they call it. The sum leaves each model's gradient as it would be alone.

    Args:
        jobs: the jobs, of one configuration but for the seed.
    """

    def __init__(self, jobs: Sequence[SeedJob]) -> None:
        super().__init__()
        self.jobs = list(jobs)
        self.seeds = [job.seed for job in jobs]
        self.net: Any = stack([job.model for job in jobs])
        self.logs = [EpochMeans() for _ in jobs]
        self.views: list[SeedTrainer] = []
        method = jobs[0].method
        self._method = method
        self._step = None if method is None else self._adversarial_step(method)

    def _adversarial_step(self, method: AdversarialTraining) -> AdversarialStep:
        name, on_clean = type(self.jobs[0].model).__name__, method.objective.steps_on_clean
        return AdversarialStep(self.net, name, on_clean=on_clean, read_logits=method.target.logits, check_labels=False)

    def attach(self, trainer: pl.Trainer) -> None:
        """Give each model its own view of the Trainer, and a ``log`` of its own."""
        self.views = [SeedTrainer(trainer, job, index, self.jobs) for index, job in enumerate(self.jobs)]
        for job, view, log in zip(self.jobs, self.views, self.logs, strict=True):
            job.model.trainer = view
            job.data.trainer = view
            vars(job.model)["log"] = log.log

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Those of a single model, for the stacked weights."""
        configured: OptimizerLRScheduler = self.net.configure_optimizers()
        return configured

    def on_fit_start(self) -> None:
        """Check what the module has made."""
        check_optimizers(self.trainer.optimizers, self.trainer.lr_scheduler_configs)

    def training_step(self, batches: list[Any], batch_idx: int) -> Tensor:
        """The sum of the seeds' losses."""
        if self._method is None or self._step is None:
            x, _ = joined(batches, self._unpack)
            return torch.stack(self._own_steps("training_step", batches, x, x, batch_idx)).sum()
        return self._adversarial(self._method, self._step, batches, batch_idx)

    def validation_step(self, batches: list[Any], batch_idx: int) -> None:
        """Each seed's own step, and the accuracies that its callbacks measure."""
        x, y = joined(batches, self._unpack)
        self._own_steps("validation_step", batches, x, x, batch_idx)
        for number, lead in enumerate(self.jobs[0].validations):
            each = [job.validations[number] for job in self.jobs]
            if lead._due and (lead.limit_batches is None or batch_idx < lead.limit_batches):
                self._measure(each, x, y)
                if lead.repeats:
                    for job in self.jobs:
                        job.model.log(lead.epoch_key, self.current_epoch, batch_size=1)
            elif not lead._due and batch_idx == 0:
                for job, callback in zip(self.jobs, each, strict=True):
                    for key, value in callback._latest.items():
                        job.model.log(key, value, batch_size=1)

    def log_as(self, *, training: bool) -> None:
        """What is logged from now on is of a training step, or of validation."""
        for log in self.logs:
            log.training = training

    def _unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
        holders = [each for each in (self._method, *self.jobs[0].validations) if each is not None]
        return holders[0].target.unpack(batch) if holders else read_batch(batch)

    def _adversarial(
        self, method: AdversarialTraining, step: AdversarialStep, batches: list[Any], batch_idx: int
    ) -> Tensor:
        x, y = joined(batches, self._unpack)
        callbacks = [job.method for job in self.jobs if job.method is not None]
        for job, callback, rows in zip(self.jobs, callbacks, split(x, len(batches)), strict=True):
            callback.prepare(job.model, rows)
        layers = [callback.penalized_layers(self.current_epoch) for callback in callbacks]
        extra = [OUTPUT] if method.objective.needs_both_outputs else []
        probed = [*dict.fromkeys(chain(*layers)), *extra]
        losses: list[Tensor] = []

        def run_step(batch: tuple[Tensor, Tensor]) -> Tensor:
            losses.extend(self._own_steps("training_step", batches, x, batch[0], batch_idx))
            return losses[0]

        asked = StepRequest(run_step, (x, y), x, y, self._craft, probed, callbacks[0]._sites)
        passes = step.run(asked, checked=False)
        totals = [
            callback.total_loss(job.model, loss, own, labels, len(labels))
            for job, callback, loss, own, labels in zip(
                self.jobs,
                callbacks,
                losses,
                _each(passes, [[*names, *extra] for names in layers]),
                split(y, len(batches)),
                strict=True,
            )
        ]
        return torch.stack(totals).sum()

    def _craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The adversarial examples of all seeds, from the attack of the first, whose rows draw from their own seeds."""
        assert self._method is not None
        attack = self._method.attack_now(self.jobs[0].model)
        with draws_of(self.seeds, len(self.seeds)):
            x_adv = attack(model, x, y)
        for job, rows in zip(self.jobs, split(x, len(self.jobs)), strict=True):
            self._method.log_eps(job.model, attack, rows)
        return x_adv

    def _own_steps(self, name: str, batches: list[Any], x: Tensor, given: Tensor, batch_idx: int) -> list[Tensor]:
        """Run each model's own step ``name`` with ``given`` in place of the joined inputs ``x``.

        Returns:
            Their losses; none for steps that return nothing.

        Raises:
            MisconfigurationException: if a training step skips its batch, or draws from the global random generators,
                which the models have in common.
        """
        before = RandomState(x.device) if batch_idx == 0 else None  # later ones cost as much as a small step
        outputs = split(self.net(given), len(batches))
        results = []
        for job, batch, rows, output in zip(self.jobs, batches, split(given, len(batches)), outputs, strict=True):
            own, _ = self._unpack(batch)
            with _answering(job.model, rows, output):
                results.append(getattr(job.model, name)(replace_tensor(batch, own, rows), batch_idx))
        losses = [loss_of(result) for result in results] if name == "training_step" else []
        if any(loss is None for loss in losses):
            msg = f"seeds=... expects every training_step to return a loss, got None; {INSTEAD}"
            raise MisconfigurationException(msg)
        if losses and before is not None and before != RandomState(x.device):
            msg = f"seeds=... expects training steps that draw no random numbers, got some that do; {INSTEAD}"
            raise MisconfigurationException(msg)
        return [loss for loss in losses if loss is not None]

    def _measure(self, callbacks: Sequence[RobustValidation], x: Tensor, y: Tensor) -> None:
        models, lead = len(callbacks), callbacks[0]

        def share(hits: Tensor) -> Tensor:
            return hits.view(models, -1).float().sum(1) / (len(hits) // models)

        def hits(rows: Tensor, labels: Tensor) -> list[Tensor]:
            clean = correct(self.net, rows, labels, lead.target.output_fn)
            return [clean, *lead.hits(self.net, rows, labels)]

        with draws_of(self.seeds, models):
            clean, *under = in_parts(hits, x, y, models)
        values = lead.accuracies(clean, under, share)
        for name, each in values.items():
            for job, value in zip(self.jobs, each, strict=True):
                job.model.log(f"{lead.prefix}/{name}", value, batch_size=len(x) // models)


class SeedCallbacks(pl.Callback):
    """Runs each seed's own callbacks, which see the Trainer as that seed's alone.

    Training, validation and analyses are those of :class:`StackedTraining`; what callbacks choose, keep, log and write
    is theirs.

    Args:
        module: the module that is trained.
    """

    def __init__(self, module: StackedTraining) -> None:
        self.module = module
        self._analyses = _Analyses(module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin; checks that a fit would make are made on each seed's callbacks, which then let go of its step."""
        self.module.attach(trainer)
        self._run("setup", stage, kinds=(pl.Callback,))
        for job in self.module.jobs:
            if isinstance(job.method, ATLR):
                job.method._analyse = self._analyses.of(job)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checks of the method; what runs on a clock starts it."""
        self._run("on_fit_start", kinds=(LastCheckpoint,))
        for job, view in zip(self.module.jobs, self.module.views, strict=True):
            if job.method is not None:
                job.method.on_fit_start(view, job.model)
                job.method.on_fit_end(view, job.model)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded."""
        self._run("on_train_start")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded."""
        self._run("on_train_epoch_start")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forwarded, each with its own batch."""
        self.module.log_as(training=True)
        for own, job, view in zip(batch, self.module.jobs, self.module.views, strict=True):
            for callback in view.callbacks:
                if isinstance(callback, FirstBatchChecks | AdversarialTraining | LearningRate):
                    callback.on_train_batch_start(view, job.model, own, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forwarded."""
        self._run("on_train_batch_end", outputs, None, batch_idx, kinds=(ModelCheckpoint,))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded."""
        self.module.log_as(training=False)
        self._run("on_validation_epoch_start")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded; then the metrics of validation are known."""
        self._run("on_validation_epoch_end")
        self._log(training=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded."""
        self._run("on_validation_end")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The metrics of training are known; forwarded."""
        self._log(training=True)
        self._run("on_train_epoch_end")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forwarded; what is drawn of the layers is drawn now, as a later drawing replaces an earlier one."""
        drawing = [
            partial(callback.on_train_end, view, job.model)
            for job, view in zip(self.module.jobs, self.module.views, strict=True)
            for callback in view.callbacks
            if isinstance(callback, ReportLogger)
        ]
        if all(isinstance(logger, CSVLogger) for logger in self.module.jobs[0].loggers):  # whose figures are files
            run_all(drawing)
        else:
            for draw in drawing:
                draw()
        self._run("on_train_end", kinds=(AdversarialTraining, RobustValidation, ModelCheckpoint, LastCheckpoint))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forwarded; the models are given back as they were, and the loggers closed."""
        self._run("teardown", stage, kinds=(pl.Callback,))
        for job in self.module.jobs:
            vars(job.model).pop("log", None)
            for logger in job.loggers:
                logger.finalize("success")

    def _log(self, *, training: bool) -> None:
        each = [log.close(training=training) for log in self.module.logs]
        for view, metrics in zip(self.module.views, each, strict=True):
            view.log_metrics(metrics, training=training)
        means = {name: torch.stack([metrics[name] for metrics in each]).mean() for name in each[0]}
        self.module.trainer.callback_metrics.update(means)  # for those who show how far it is

    def _run(self, hook: str, *args: Any, kinds: tuple[type, ...] | None = None) -> None:
        for job, view in zip(self.module.jobs, self.module.views, strict=True):
            for callback in list(view.callbacks):
                drawing = isinstance(callback, ReportLogger) and hook == "on_train_epoch_end"
                if isinstance(callback, kinds or _FORWARDED) and not drawing:
                    getattr(callback, hook)(view, job.model, *args)


_FORWARDED = (AdversarialTraining, RobustValidation, ReportLogger, ModelCheckpoint)


class _Analyses:
    """The analyses of all seeds, made when the first of them asks."""

    def __init__(self, module: StackedTraining) -> None:
        self.module = module
        self._waiting: dict[int, SustainabilityReport] = {}

    def of(self, job: SeedJob) -> Callable[..., SustainabilityReport]:
        """In place of the method that makes the analysis of ``job``."""

        def analyse(trainer: pl.Trainer, pl_module: pl.LightningModule) -> SustainabilityReport:
            if job.seed not in self._waiting:
                self._waiting = dict(zip(self.module.seeds, self._all(), strict=True))
            return self._waiting.pop(job.seed)

        return analyse

    def _all(self) -> list[SustainabilityReport]:
        module, lead = self.module, self.module.jobs[0].method
        assert isinstance(lead, ATLR)
        attack = lead.analysis_attack.with_eps(lead.analysis_attack.eps)
        # Read before, as each of torch's functions takes longer inside of ``draws_of``.
        batches = list(ValidationLoaders(module.trainer).batches(module, 0, lead.analysis_limit_batches))
        models = [job.model for job in module.jobs]
        analysis = StackedAnalysis(module.net, models, lead.layers, lead.regularizer.measure, lead.target.unpack)
        with draws_of(module.seeds, len(models)):
            return analysis.run(batches, attack)


def _each(passes: Passes, names: Sequence[Sequence[str]]) -> list[Passes]:
    """Each model's rows of the representations that ``names`` lists for it."""
    models = len(names)
    both = (passes.clean, passes.adversarial)
    sides = [{name: split(tensor, models) for name, tensor in side.items()} for side in both]
    return [
        Passes(None, *({name: side[name][index] for name in own if name in side} for side in sides))
        for index, own in enumerate(names)
    ]


@contextmanager
def _answering(model: nn.Module, x: Tensor, output: Any) -> Iterator[None]:
    """Inside, ``model`` returns ``output``, which the stacked one gave, when it is called with ``x``."""

    def answer(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or args[0] is not x:
            msg = (
                f"seeds=... expects the steps of {type(model).__name__} to call it with the batch's own x alone, got "
                f"something else; {INSTEAD}"
            )
            raise MisconfigurationException(msg)
        return output

    vars(model)["forward"] = answer
    try:
        yield
    finally:
        del vars(model)["forward"]
