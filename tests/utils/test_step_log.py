from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import foreign
from torch import Tensor

from lsa_lightning.utils.step_log import log_mean


class Twice(ForeignModule):
    """Logs each loss both ways."""

    def training_step(self, batch: Any) -> Tensor:
        loss = super().training_step(batch)
        self.log("lightnings", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        log_mean(self, "ours", loss, len(batch[0]))
        return loss


class Notes(pl.Callback):
    """What each epoch ends with."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.epochs.append((float(metrics["ours"]), float(metrics["lightnings"])))


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_each_epoch_has_lightnings_mean(interval: float) -> None:
    notes = Notes()
    run = trainer([notes], max_epochs=3, val_check_interval=interval)
    run.fit(foreign(Twice), loader(n=40), loader(seed=1))  # batches of 16, 16 and 8
    assert len({ours for ours, _ in notes.epochs}) == 3
    assert [ours for ours, _ in notes.epochs] == [theirs for _, theirs in notes.epochs]


def test_log_itself_runs_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    full = pl.LightningModule.log

    def counted(self: pl.LightningModule, name: str, *args: Any, **kwargs: Any) -> None:
        calls.append(name)
        full(self, name, *args, **kwargs)

    monkeypatch.setattr(pl.LightningModule, "log", counted)
    trainer([], max_epochs=2).fit(foreign(Twice), loader())
    assert (calls.count("lightnings"), calls.count("ours")) == (6, 2)


def test_a_log_of_the_modules_own_sees_every_step() -> None:
    seen: list[float] = []

    class Own(Twice):
        def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if name == "ours":
                seen.append(float(value))

    trainer([], max_epochs=2).fit(foreign(Own), loader())
    assert len(seen) == 6


def test_a_module_without_a_trainer_logs_nowhere() -> None:
    with pytest.warns(UserWarning, match="not registered"):
        log_mean(foreign(), "ours", torch.tensor(1.0), 1)
