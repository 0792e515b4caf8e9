"""How far training is, and when it will be done."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from rich.progress import BarColumn, TextColumn
from rich.table import Column
from torch import Tensor

from lsa_lightning.attacks.input_space import AttackInSpace
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.callbacks.adversarial_training import AdversarialTraining
from lsa_lightning.callbacks.atlr import ATLR
from lsa_lightning.callbacks.robust_validation import RobustValidation
from lsa_lightning.utils.checks import flag, or_none
from lsa_lightning.utils.describe import eps_in_words
from lsa_lightning.utils.progress import bar_of, duration, say, time_left

SECONDS_BETWEEN_LINES = 300.0
"""Within an epoch, the log is silent for about so long."""

SECONDS_BETWEEN_UPDATES = 0.5
"""Of the bar: each reads the loss, for which a GPU has to wait."""


class TrainingProgress(ProgressBar):
    """A bar for the whole training, on a terminal, and a line of the log for every epoch.

    Both show the epoch, the mean loss of its batches (what is minimised, with the regularizer), of the last
    validation the clean accuracy and the robust one (that by which checkpoints are chosen; without one, the least
    that :class:`~lsa_lightning.RobustValidation` measured under an attack), in the lines with their epoch where that
    validation repeated them, and the time left until all epochs are done. It is estimated from the last 10 epochs of
    this fit, with their validations and analyses; before the first one is done, from its batches so far, as the least
    that it can be (``> 0:10:00 left``). An early stop is not foreseen, nor what comes after training.

    The lines, which also name the attack of training and the layers that are regularized, are logged as those of
    :class:`~lsa_lightning.utils.progress.Progress`; within an epoch there is one every five minutes. Of several
    processes the first alone says something. Validation outside of a fit, tests and predictions are not shown.

    Args:
        shown: whether to show anything; None: the bar where the error stream is a terminal, the lines always.

    Raises:
        ValueError: if ``shown`` is neither True, False nor None.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TrainingProgress()], logger=False)
    """

    def __init__(self, shown: bool | None = None) -> None:
        super().__init__()
        self.shown = or_none(flag, self, "shown", shown)
        self._enabled = True
        self._fit: _Fit | None = None

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show what ``shown`` says."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if self._enabled and self.shown is not False:
            self._fit = _Fit(trainer, self.shown, self.watched(trainer))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch."""
        if self._fit is not None:
            self._fit.begin_epoch()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the loss."""
        if self._fit is not None:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self._fit.train(batch_idx, loss)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if self._fit is not None:
            self._fit.validate()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the accuracies."""
        if self._fit is not None:
            self._fit.accuracies = accuracies_of(trainer.callback_metrics, self.monitored(trainer))
            self._fit.validated_epoch = trainer.current_epoch

    def monitored(self, trainer: pl.Trainer) -> str | None:
        """The metric by which checkpoints are chosen; None without one."""
        choosers = (each for each in self.watched(trainer) if isinstance(each, Checkpoint))
        return next((getattr(each, "monitor", None) for each in choosers), None)

    def watched(self, trainer: pl.Trainer) -> list[pl.Callback]:
        """The callbacks of the training that is shown."""
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the epoch went."""
        if self._fit is not None:
            self._fit.end_epoch()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self._end("done in")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self._end(f"stopped in epoch {trainer.current_epoch + 1} after")

    def _end(self, how: str) -> None:
        fit, self._fit = self._fit, None
        if fit is not None:
            fit.end(how)


class EpochTimes:
    """How long the epochs to come will take, from those that this fit has seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=10)  # seconds, and the share of the epoch that took them
        self._began = time.monotonic()
        self._share_before = 0.0

    def go_on(self, share: float) -> None:
        """So much of the epoch was done before this fit began, as after a resume in mid-epoch."""
        self._share_before = share

    def end_epoch(self) -> None:
        """The epoch is done; the next one begins."""
        now = time.monotonic()
        self._seen.append((now - self._began, 1 - self._share_before))
        self._began, self._share_before = now, 0.0

    def left(self, epochs: float, share: float) -> str:
        """The time until so many epochs are done, this one included, whose training batches are done to a share."""
        spent = time.monotonic() - self._began
        if self._seen:
            epoch = sum(seconds for seconds, _ in self._seen) / sum(done for _, done in self._seen)
            return time_left(max(epochs * epoch - spent, (epochs - 1) * epoch, 0.0))
        trained = share - self._share_before
        return f"> {time_left((epochs - share) * spent / trained)}" if trained > 0 else ""


class _Fit:
    """What is shown of one fit."""

    def __init__(self, trainer: pl.Trainer, shown: bool | None, watched: list[pl.Callback]) -> None:
        self.trainer = trainer
        self._watched = watched
        self.accuracies: dict[str, float] = {}
        self.validated_epoch = 0
        self.times = EpochTimes()
        columns = [TextColumn(f"{{task.{name}}}", table_column=Column(no_wrap=True)) for name in _FIELDS]
        self._bar = bar_of(columns[0], BarColumn(None), *columns[1:], shown=shown)
        self._task = self._bar.add_task("Training", total=1.0, figures="", left="")
        self._bar.start()
        self._began = self._said = self._updated = time.monotonic()
        self._announced = False
        self._loss = torch.zeros(())
        self._reset()

    def begin_epoch(self) -> None:
        self._reset()
        self._announce()
        self._update()

    def train(self, batch_idx: int, loss: Any) -> None:
        if not self._announced:  # a resume within an epoch, which does not begin then
            self._announce()
            self.times.go_on(batch_idx / self.trainer.num_training_batches)
        self._trained = batch_idx + 1
        if isinstance(loss, Tensor):
            self._loss = self._loss + loss.detach().float() * self.trainer.accumulate_grad_batches
            self._losses += 1
        self._update_now_and_then()

    def validate(self) -> None:
        self._validated += 1
        self._update_now_and_then()

    def end_epoch(self) -> None:
        self.times.end_epoch()
        epochs = number_of_epochs(self.trainer)
        left = "" if epochs is None else self.times.left(epochs - self.trainer.current_epoch - 1, 0.0)
        mvl = regularized_in_words(self.trainer.callbacks)  # type: ignore[attr-defined]
        self._say(f"{self._epoch}: {', '.join(filter(None, (self._dated_figures, mvl, left)))}")

    def end(self, how: str) -> None:
        self._bar.stop()
        self._say(f"Training: {how} {duration(time.monotonic() - self._began)}")

    def _reset(self) -> None:
        self._trained = self._validated = self._losses = 0
        self._loss = torch.zeros(())

    def _announce(self) -> None:
        if not self._announced:
            self._say(f"Training: from {self._epoch.lower()}, {trained_on_in_words(self._watched)}")
            self._announced = True

    @property
    def _epoch(self) -> str:
        epochs = number_of_epochs(self.trainer)
        return f"Epoch {self.trainer.current_epoch + 1}{'' if epochs is None else f'/{epochs}'}"

    @property
    def _figures(self) -> str:
        loss = {"loss": f"{float(self._loss) / self._losses:.4g}"} if self._losses else {}
        shares = {name: f"{100 * accuracy:.1f} %" for name, accuracy in self.accuracies.items()}
        return ", ".join(f"{name} {value}" for name, value in {**loss, **shares}.items())

    @property
    def _dated_figures(self) -> str:
        """With the epoch of accuracies that the last validation repeated, for which the bar has no room."""
        measured = measured_epoch_of(self._watched) if self.accuracies else None
        if measured is None or measured == self.validated_epoch:
            return self._figures
        return f"{self._figures} (epoch {measured + 1})"

    @property
    def _left(self) -> str:
        epochs = number_of_epochs(self.trainer)
        share = self._trained / self.trainer.num_training_batches
        return "" if epochs is None else self.times.left(epochs - self.trainer.current_epoch, share)

    def _update_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._updated >= SECONDS_BETWEEN_UPDATES:
            self._update()
        if now - self._said >= SECONDS_BETWEEN_LINES:
            share = f"{self._trained / self.trainer.num_training_batches:.0%} trained"
            self._say(f"{self._epoch}: {', '.join(filter(None, (share, self._dated_figures, self._left)))}")

    def _update(self) -> None:
        self._updated = time.monotonic()
        epochs = number_of_epochs(self.trainer)
        batches = self.trainer.num_training_batches + sum(self.trainer.num_val_batches)
        done = self.trainer.current_epoch + (self._trained + self._validated) / batches
        share = 0.0 if epochs is None else done / epochs
        figures, left = self._figures, self._left
        self._bar.update(self._task, description=self._epoch, completed=share, figures=figures, left=left)

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        say(line, self._bar)


_FIELDS = ("description", "fields[figures]", "fields[left]")


def number_of_epochs(trainer: pl.Trainer) -> int | None:
    """Epochs of the whole training, which ``max_steps`` may end first; None: no end is known."""
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if trainer.max_steps != -1:
        # The last batch of an epoch makes a step, too; of batches without number none is known to be the last.
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        steps = batches if math.isinf(batches) else max(1, math.ceil(batches))
        epochs = min(epochs, math.inf if math.isinf(steps) else math.ceil(trainer.max_steps / steps))
    return None if math.isinf(epochs) else int(epochs)


def accuracies_of(metrics: Mapping[str, Tensor], monitored: str | None = None) -> dict[str, float]:
    """Of what :class:`~lsa_lightning.RobustValidation` logged, ``clean``, and the robust accuracy that is monitored.

    If none is, ``robust`` is the least.

    Example:
        >>> metrics = {"val/acc_clean": 0.9, "val/acc_fgsm": 0.5, "val/acc_pgd": 0.7, "val/loss": 0.1}
        >>> metrics = {key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()}
        >>> accuracies_of(metrics), accuracies_of(metrics, "val/acc_pgd")
        ({'clean': 0.9, 'robust': 0.5}, {'clean': 0.9, 'pgd': 0.7})
    """
    clean = [float(value) for key, value in metrics.items() if key.startswith("val/acc_clean")]
    others = {k: float(v) for k, v in metrics.items() if k.startswith("val/acc_") and "acc_clean" not in k}
    name = "robust"
    if monitored in others:
        name, others = monitored.removeprefix("val/acc_"), {monitored: others[monitored]}
    return {name: min(values) for name, values in (("clean", clean), (name, [*others.values()])) if values}


def measured_epoch_of(callbacks: list[pl.Callback]) -> int | None:
    """The epoch, from 0, whose accuracies :class:`~lsa_lightning.RobustValidation` logs; None: it is not known."""
    validations = (callback for callback in callbacks if isinstance(callback, RobustValidation))
    return next((callback.measured_epoch for callback in validations if callback.prefix == "val"), None)


def trained_on_in_words(callbacks: list[pl.Callback]) -> str:
    """The attack of :class:`~lsa_lightning.AdversarialTraining`, without which a run trains on inputs as they are."""
    attack = next((callback.attack for callback in callbacks if isinstance(callback, AdversarialTraining)), None)
    if attack is None:
        return "no attack"
    while isinstance(attack, AttackInSpace | AttackOnLogits):
        (attack,) = attack.attacks.values()
    return f"under {type(attack).__name__} at eps {eps_in_words(attack.eps)}"


def regularized_in_words(callbacks: list[pl.Callback]) -> str:
    """The layers that :class:`~lsa_lightning.ATLR` regularizes: up to four by name, else their number."""
    atlr = next((callback for callback in callbacks if isinstance(callback, ATLR)), None)
    if atlr is None or atlr.mvl is None:
        return ""
    gamma = atlr.regularizer.unscheduled(atlr.mvl)
    names = [name.removeprefix("backbone.") for name in atlr.mvl if gamma.get(name)]
    return f"regularizes {', '.join(names) or 'nothing'}" if len(names) <= 4 else f"regularizes {len(names)} layers"
