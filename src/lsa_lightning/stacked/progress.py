"""How far the training of many seeds is: shown once for all, and noted in each seed's status."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from lsa_lightning.callbacks import TrainingProgress
from lsa_lightning.jobs.attempt import Attempt
from lsa_lightning.runs.signals import Signals
from lsa_lightning.stacked.job import SeedJob

SECONDS_BETWEEN_NOTES = 10.0
"""Of finished epochs; a file for each seed and epoch would take as long as small models train."""


class MeanProgress(TrainingProgress):
    """Shows the means over the seeds.

    Args:
        shown: see :class:`~lsa_lightning.callbacks.TrainingProgress`.
        jobs: the seeds' jobs; what the module returns is the sum of their losses.
    """

    def __init__(self, shown: bool | None, jobs: Sequence[SeedJob]) -> None:
        super().__init__(shown)
        self.models = len(jobs)
        self._callbacks = [*jobs[0].callbacks]

    def watched(self, trainer: pl.Trainer) -> list[pl.Callback]:
        """Those of the first seed, as of the others."""
        return self._callbacks

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the mean loss."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        super().on_train_batch_end(trainer, pl_module, loss / self.models, batch, batch_idx)


class SeedStatus(pl.Callback):
    """Takes the signals, which end the training, and now and then notes finished epochs in each seed's status.

    A signal stops at once, but for one that comes while Python clears something away, where errors are lost: that one
    stops before the next batch.

    Args:
        signals: the signals.
        attempts: whose status.
    """

    def __init__(self, signals: Signals, attempts: Sequence[Attempt]) -> None:
        self.signals = signals
        self.attempts = attempts
        self._noted = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The Trainer has just taken the signals."""
        self.signals.install()

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        """Stop, if a signal was lost."""
        self.signals.check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch, if the last note is old enough."""
        if time.monotonic() - self._noted >= SECONDS_BETWEEN_NOTES:
            self._note(trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note all epochs."""
        self._note(trainer.current_epoch)

    def _note(self, epochs: int) -> None:
        for attempt in self.attempts:
            attempt.note_epoch(epochs)
        self._noted = time.monotonic()
