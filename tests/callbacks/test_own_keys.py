from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import MVL, foreign, pgd

from lsa_lightning import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.attacks import FGSM


def logging(hook: str, key: str) -> type[ForeignModule]:
    """A module that logs 7 under ``key`` in ``hook``."""

    class Logging(ForeignModule):
        def training_step(self, batch: Any) -> Any:
            if hook == "training_step":
                self.log(key, 7.0, on_step=False, on_epoch=True, batch_size=16, sync_dist=True)
            return super().training_step(batch)

        def validation_step(self, batch: Any) -> None:
            if hook == "validation_step":
                self.log(key, 7.0)
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def on_validation_epoch_end(self) -> None:
            if hook == "on_validation_epoch_end":
                self.log(key, 7.0)

    return Logging


@pytest.mark.parametrize(
    ("callback", "hook", "key"),
    [
        (AdversarialTraining(FGSM(0.1)), "training_step", "train/loss_base"),
        (ATLR(pgd(), mvl=MVL, analysis_every_n_epochs=0), "training_step", "train/loss_lr"),
        (ATLR(pgd()), "validation_step", "lsa/mu"),
        (RobustValidation({"fgsm": FGSM(0.1)}), "validation_step", "val/acc_clean"),
        (RobustValidation({"fgsm": FGSM(0.1)}), "validation_step", "val/acc_fgsm"),
        (RobustValidation({"fgsm": FGSM(0.1)}), "on_validation_epoch_end", "val/acc_fgsm"),
    ],
)
def test_a_key_that_the_module_logs_too_is_an_error(callback: pl.Callback, hook: str, key: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"expected nobody else to log '{key}'.*{hook} does"):
        trainer([callback], max_epochs=2).fit(foreign(logging(hook, key)), loader(), loader(seed=1))


def test_a_collision_in_validation_shows_before_the_first_step() -> None:
    run = trainer([RobustValidation({"fgsm": FGSM(0.1)})], num_sanity_val_steps=1)
    with pytest.raises(MisconfigurationException, match="expected nobody else to log 'val/acc_clean'"):
        run.fit(foreign(logging("validation_step", "val/acc_clean")), loader(), loader(seed=1))
    assert run.global_step == 0


def test_the_modules_own_accuracy_stays() -> None:
    run = trainer([RobustValidation({"fgsm": FGSM(0.1)}, limit_batches=1)])
    run.fit(foreign(logging("validation_step", "val/acc")), loader(), loader(seed=1))
    assert run.callback_metrics["val/acc"] == 7
    assert run.callback_metrics["val/acc_clean"] <= 1


def test_two_validations_need_two_prefixes() -> None:
    first = RobustValidation({"weak": FGSM(0.01)})
    with pytest.raises(MisconfigurationException, match="give RobustValidation another prefix"):
        trainer([first, RobustValidation({"strong": FGSM(0.2)})]).fit(foreign(), loader(), loader(seed=1))
    second = RobustValidation({"strong": FGSM(0.2)}, prefix="val_strong")
    run = trainer([first, second])
    run.fit(foreign(), loader(), loader(seed=1))
    assert {"val/acc_weak", "val_strong/acc_strong", "val_strong/acc_clean"} <= run.callback_metrics.keys()
    assert first.state_key != second.state_key


@pytest.mark.filterwarnings("error:You are trying to `self.log")
def test_nothing_is_logged_in_barebones_mode() -> None:
    class Quiet(ForeignModule):
        def validation_step(self, batch: Any) -> None:
            self(batch[0])

    callbacks = [ATLR(pgd()), RobustValidation({"fgsm": FGSM(0.1)})]
    pl.Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=callbacks).fit(
        foreign(Quiet), loader(), loader(seed=1)
    )
