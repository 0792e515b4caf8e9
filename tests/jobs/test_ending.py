"""What the end of a job tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.helpers.modules import ForeignModule, loader, trainer

from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.callbacks import RobustValidation
from lsa_lightning.jobs.ending import load_best, validated_at
from lsa_lightning.runs.summary import RunSummary


class Scored(ForeignModule):
    """Validation gives the scores of a list in turn."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", next(self.scores))


@pytest.mark.parametrize(
    ("scores", "epoch", "step", "words"),
    [
        ([0.1, 0.2, 0.4, 0.3], 1, 3, "the weights of step 3, within epoch 2/2, the best val/score, 0.4000"),
        ([0.1, 0.4, 0.3, 0.2], 0, None, "the weights of epoch 1/2, the best val/score, 0.4000"),
    ],
)
def test_weights_from_within_an_epoch_are_said_to_be(
    scores: list[float], epoch: int, step: int | None, words: str, tmp_path: Path
) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/score", mode="max")
    options: dict[str, Any] = {"enable_checkpointing": True, "val_check_interval": 0.5}
    fitting = trainer([best], max_epochs=2, limit_train_batches=2, **options)
    module: pl.LightningModule = Scored(scores)
    fitting.fit(module, loader(8, 2), loader(8, seed=1))
    kept = load_best(fitting, module)
    assert (kept.epoch, kept.step) == (epoch, step)
    assert kept.in_words(2) == words
    again = RunSummary("x", 0, {}, 2, 1.0, "best.ckpt", kept.epoch, kept.step).to_dict()
    assert RunSummary.from_dict(again).checkpoint_step == kept.step


def test_the_radius_of_validation_is_in_words() -> None:
    assert validated_at([RobustValidation({"a": FGSM(0.1), "b": PGD(0.1)})]) == "eps 0.1 (Linf)"
    assert validated_at([RobustValidation({"a": FGSM(0.1), "b": FGSM(0.2)})]) == ""
    assert validated_at([]) == ""


def test_a_checkpoint_of_a_kind_of_ones_own_says_no_step(tmp_path: Path) -> None:
    module = ForeignModule()
    torch.save({"state_dict": module.state_dict(), "epoch": 3, "global_step": 7}, tmp_path / "own.ckpt")
    chooser = Mock(best_model_path=str(tmp_path / "own.ckpt"), best_model_score=None, monitor=None)
    kept = load_best(Mock(checkpoint_callback=chooser), module)
    assert (kept.epoch, kept.step, kept.validation) == (3, None, {})
