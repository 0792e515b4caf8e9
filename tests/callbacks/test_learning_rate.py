"""The learning rate in the loggers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import ForeignModule, loader, trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lsa_lightning.callbacks import LearningRate


class Scheduled(ForeignModule):
    """Halves its rate after every epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.5)
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, gamma=0.5)}


def test_every_epoch_has_its_rate(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    trainer([LearningRate()], logger=logger, max_epochs=3).fit(Scheduled(), loader(), loader(seed=1))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr-SGD"]) for row in csv.DictReader(file) if row["lr-SGD"]]
    assert rates == pytest.approx([0.5, 0.25, 0.125])


def test_without_a_logger_nothing_happens() -> None:
    run = trainer([LearningRate()])
    run.fit(Scheduled(), loader(), loader(seed=1))
    assert run.current_epoch == 1
