"""The learning rate in the loggers."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRate(LearningRateMonitor):
    """Lightning's monitor of learning rates, which does nothing where there is no logger.

    Logs ``lr-<optimizer>``, as in ``lr-Adam``; at every epoch, or for a scheduler that is stepped with the optimizer as
    often as other values.

    Its arguments are those of :class:`lightning.pytorch.callbacks.LearningRateMonitor`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LearningRate()], logger=False)
    """

    def on_train_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Find the optimizers."""
        if trainer.loggers:  # else Lightning's raises
            super().on_train_start(trainer, *args, **kwargs)
