"""The learning rate in the logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.callbacks.own_keys import log_own


class LearningRate(FreshCallback):
    """Logs ``lr-<optimizer>``, as in ``lr-Adam``, once an epoch: the learning rate of its first step.

    Lightning's ``LearningRateMonitor`` writes rows of its own, without the epoch, and refuses to run without a logger;
    beside it, whose keys are the same, there is a warning.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LearningRate()], logger=False)
    """

    def __init__(self) -> None:
        self.start_afresh()
        self.start_fit()

    def start_afresh(self) -> None:
        """No epoch's rates are known yet."""
        self._epoch: int | None = None
        self._rates: dict[str, float] = {}

    def start_fit(self) -> None:
        """No epoch has been logged yet."""
        self._logged: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The rates of the latest epoch, which may not be over."""
        return {"epoch": self._epoch, "rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the checkpoint's."""
        self._epoch, self._rates = state_dict["epoch"], state_dict["rates"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that Lightning's monitor logs under the same keys."""
        if any(isinstance(callback, LearningRateMonitor) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            rank_zero_warn(
                "LearningRate and LearningRateMonitor log the learning rate under the same keys, the one of an epoch's "
                "first step and the other at moments of its own: leave one of them out."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log, if this is the first batch of the epoch in this fit; after a resume within one, what was so then."""
        epoch = trainer.current_epoch
        if self._logged == epoch:
            return
        if self._epoch != epoch:
            self._epoch, self._rates = epoch, rates_of(trainer.optimizers)
        self._logged = epoch
        for name, rate in self._rates.items():
            log_own(self, pl_module, name, rate, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)


def rates_of(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """Learning rates under the names that Lightning's monitor gives them.

    ``lr-Adam``; ``lr-Adam-1`` for a second Adam; ``lr-Adam/pg1`` and so on if it has several groups of parameters, or
    the group's own name in place of ``pg1``, unless one before it has the same.
    """
    rates: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for optimizer in optimizers:
        name = type(optimizer).__name__
        key = f"lr-{name}-{seen[name]}" if seen[name] else f"lr-{name}"
        seen[name] += 1
        groups = optimizer.param_groups
        for number, group in enumerate(groups, start=1):
            part = group.get("name") or (f"pg{number}" if len(groups) > 1 else None)
            own = f"{key}/{part}" if part else key
            rates[own if own not in rates else f"{key}/pg{number}"] = float(group["lr"])
    return rates
