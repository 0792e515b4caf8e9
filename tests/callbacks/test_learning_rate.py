"""The learning rate in the logs."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import SaveWithin
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from lsa_lightning.callbacks import LearningRate
from lsa_lightning.callbacks.learning_rate import rates_of


class Scheduled(ForeignModule):
    """Halves its rate after every ``interval``."""

    interval = "epoch"

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.5)
        scheduler = StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


class PerStep(Scheduled):
    interval = "step"


def rates(folder: Path) -> list[tuple[int, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["epoch"]), float(row["lr-SGD"])) for row in csv.DictReader(file) if row.get("lr-SGD")]


def fit(folder: Path, model: pl.LightningModule, epochs: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    logger = CSVLogger(folder, name="", version="")
    run = trainer([LearningRate(), *callbacks], logger=logger, max_epochs=epochs, log_every_n_steps=1)
    run.fit(model, loader(), loader(seed=1), **options)
    return run


def test_every_epoch_has_the_rate_of_its_first_step(tmp_path: Path) -> None:
    fit(tmp_path / "epoch", Scheduled(), 3)
    assert rates(tmp_path / "epoch") == [(0, 0.5), (1, 0.25), (2, 0.125)]
    fit(tmp_path / "step", PerStep(), 2)
    assert rates(tmp_path / "step") == [(0, 0.5), (1, 0.0625)]  # three steps later


def test_a_fit_that_goes_on_within_an_epoch_logs_the_rate_of_its_first_step_again(tmp_path: Path) -> None:
    fit(tmp_path / "whole", PerStep(), 3, SaveWithin(tmp_path / "within.ckpt"))
    fit(tmp_path / "rest", PerStep(), 3, ckpt_path=tmp_path / "within.ckpt")
    assert rates(tmp_path / "rest") == rates(tmp_path / "whole")[1:]


def test_without_a_logger_it_can_still_be_monitored() -> None:
    run = trainer([LearningRate()])
    run.fit(Scheduled(), loader(), loader(seed=1))
    assert float(run.callback_metrics["lr-SGD"]) == 0.5


def test_names_are_those_of_lightnings_monitor() -> None:
    net = ForeignModule().net
    groups = [{"params": net.fc1.parameters(), "lr": 0.2}, {"params": net.fc2.parameters()}]
    named = [{"params": net.fc1.parameters(), "lr": 0.4, "name": "head"}, {"params": net.fc2.parameters()}]
    alone = [{"params": net.fc1.parameters(), "lr": 0.5, "name": "all"}]
    optimizers: list[Optimizer] = [Adam(groups, lr=0.1), Adam(net.conv1.parameters()), SGD(net.parameters(), lr=0.3)]
    optimizers += [SGD(named, lr=0.6), SGD(alone)]
    expected = {"lr-Adam/pg1": 0.2, "lr-Adam/pg2": 0.1, "lr-Adam-1": 0.001, "lr-SGD": 0.3}
    expected |= {"lr-SGD-1/head": 0.4, "lr-SGD-1/pg2": 0.6, "lr-SGD-2/all": 0.5}
    assert rates_of(optimizers) == expected
    names, _ = LearningRateMonitor()._find_names_from_optimizers(optimizers, [], defaultdict(int))
    assert [name for group in names for name in group] == list(expected)


def test_groups_of_one_name_are_told_apart() -> None:
    net = ForeignModule().net
    groups = [{"params": part.parameters(), "lr": lr, "name": "a"} for part, lr in ((net.fc1, 0.1), (net.fc2, 0.2))]
    assert rates_of([SGD(groups)]) == {"lr-SGD/a": 0.1, "lr-SGD/pg2": 0.2}


def test_a_second_fit_begins_anew() -> None:
    callback = LearningRate()
    for _ in range(2):
        run = trainer([callback])
        run.fit(Scheduled(), loader(), loader(seed=1))
        assert float(run.callback_metrics["lr-SGD"]) == pytest.approx(0.5)


def test_lightnings_monitor_beside_it_is_said() -> None:
    run = trainer([LearningRate(), LearningRateMonitor()], logger=True, barebones=False)
    with pytest.warns(UserWarning, match="log the learning rate under the same keys"):
        run.fit(Scheduled(), loader(), loader(seed=1))
