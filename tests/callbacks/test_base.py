"""One list of callbacks over several fits, and over the two packages of Lightning."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.tuner.tuning import Tuner
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import MVL, assert_same, fit, foreign, pgd

from lsa_lightning import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.attacks import FGSM, PGD, InputSpace
from lsa_lightning.callbacks import AdversarialWeightPerturbation, CatastrophicOverfittingStop, ReportLogger, base
from lsa_lightning.callbacks.collapse_guard import CollapseGuard
from lsa_lightning.callbacks.learning_rate import LearningRate

pytestmark = pytest.mark.usefixtures("float64")

Made = Callable[[], pl.Callback]
CALLBACKS: dict[str, Made] = {
    "AdversarialTraining": lambda: AdversarialTraining(PGD(0.1, steps=2, seed=0)),
    "in a space": lambda: AdversarialTraining(PGD(0.1, steps=2, seed=0), input_space=InputSpace(0.0, 1.0)),
    "ATLR": lambda: ATLR(pgd(), top_k=1),
    "ATLR with a fixed list": lambda: ATLR(pgd(), mvl=["net.relu1"]),
    "RobustValidation": lambda: RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=2),
    "CatastrophicOverfittingStop": lambda: CatastrophicOverfittingStop(PGD(0.1, seed=0), drop=0.0),
    "ReportLogger": ReportLogger,
    "LearningRate": LearningRate,
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_second_fit_equals_one_with_a_new_callback(name: str) -> None:
    reused, new = CALLBACKS[name](), CALLBACKS[name]()
    second, expected = foreign(lr=0.2), foreign(lr=0.2)
    fit(foreign(lr=0.5), reused, max_epochs=3)
    runs = [fit(module, callback, max_epochs=3) for module, callback in ((second, reused), (expected, new))]
    assert_same(second, expected, tolerance=0.0)
    metrics = [{key: float(value) for key, value in run.callback_metrics.items()} for run in runs]
    assert metrics[0] == metrics[1]
    assert str(_plain(reused.state_dict())) == str(_plain(new.state_dict()))


class PlainSGD(ForeignModule):
    """Its optimizer has no state, of which a further fit knows nothing."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_further_fit_of_the_same_trainer_goes_on(name: str) -> None:
    halted, whole = CALLBACKS[name](), CALLBACKS[name]()
    module, expected = foreign(PlainSGD), foreign(PlainSGD)
    run = fit(module, halted, max_epochs=3)
    run.fit_loop.max_epochs = 5
    run.fit(module, loader(), loader(seed=1))
    fit(expected, whole, max_epochs=5)
    assert_same(module, expected, tolerance=0.0)
    assert str(_plain(halted.state_dict())) == str(_plain(whole.state_dict()))


@pytest.mark.parametrize("name", CALLBACKS)
def test_another_module_in_the_same_trainer_begins_afresh(name: str) -> None:
    reused, new = CALLBACKS[name](), CALLBACKS[name]()
    second, expected = foreign(PlainSGD), foreign(PlainSGD)
    run, other = (
        fit(foreign(PlainSGD, lr=0.5), reused, max_epochs=2),
        fit(foreign(PlainSGD), pl.Callback(), max_epochs=2),
    )
    other.callbacks.append(new)  # type: ignore[attr-defined]
    for each, module in ((run, second), (other, expected)):
        each.fit_loop.max_epochs = 4
        torch.manual_seed(2)
        each.fit(module, loader(), loader(seed=1))
    assert_same(second, expected, tolerance=0.0)
    assert str(_plain(reused.state_dict())) == str(_plain(new.state_dict()))


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_checkpoint_that_knows_nothing_of_the_callback_begins_afresh_in_a_used_trainer(
    name: str, tmp_path: Path
) -> None:
    fit(foreign(PlainSGD), pl.Callback()).save_checkpoint(tmp_path / "plain.ckpt")
    reused, new = CALLBACKS[name](), CALLBACKS[name]()
    module, expected = foreign(PlainSGD), foreign(PlainSGD)
    run = fit(module, reused, max_epochs=2)
    run.fit_loop.max_epochs = 3
    for each, trained in ((run, module), (trainer([new], max_epochs=3), expected)):
        torch.manual_seed(2)
        each.fit(trained, loader(), loader(seed=1), ckpt_path=tmp_path / "plain.ckpt")
    assert_same(module, expected, tolerance=0.0)
    assert str(_plain(reused.state_dict())) == str(_plain(new.state_dict()))


def test_a_checkpoint_that_is_tested_takes_nothing_from_the_callback(tmp_path: Path) -> None:
    fit(foreign(PlainSGD), pl.Callback()).save_checkpoint(tmp_path / "plain.ckpt")
    callback = ATLR(pgd(), top_k=1)
    run = fit(module := foreign(), callback, max_epochs=2)
    run.validate(module, loader(seed=1), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert [entry.epoch for entry in callback.history] == [0, 1]


def test_a_fit_elsewhere_in_between_is_none_to_go_on_with() -> None:
    callback = ATLR(pgd(), top_k=1)
    module = foreign()
    first = fit(module, callback, max_epochs=2)
    fit(foreign(), callback)
    first.fit_loop.max_epochs = 3
    first.fit(module, loader(), loader(seed=1))
    assert [entry.epoch for entry in callback.history] == [2]


class Halting(pl.Callback):
    """An error in the second epoch, after its first step."""

    halts = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.halts and (trainer.current_epoch, batch_idx) == (1, 1):
            self.halts = False
            msg = "halted"
            raise RuntimeError(msg)


def test_an_epoch_that_was_halted_is_seen_anew() -> None:
    stop, rate, atlr = CALLBACKS["CatastrophicOverfittingStop"](), LearningRate(), ATLR(pgd(), mvl=["net.relu1"])
    module, run = foreign(PlainSGD), trainer([stop, rate, atlr, Halting()], max_epochs=2)
    with pytest.raises(RuntimeError, match="halted"):
        run.fit(module, loader(), loader(seed=1))
    attacked, counted = [], []
    measure, check = CatastrophicOverfittingStop._measure, CollapseGuard.check

    def measured(self: CatastrophicOverfittingStop, run: pl.Trainer, module: Any, batch: Any) -> float:
        attacked.append(batch[0])
        return measure(self, run, module, batch)

    def checked(self: CollapseGuard, loss: float) -> None:
        counted.append(sum(len(y) for y in self._labels))
        check(self, loss)

    others = loader(seed=2)
    with patch.object(CatastrophicOverfittingStop, "_measure", measured), patch.object(CollapseGuard, "check", checked):
        run.fit(module, others, loader(seed=1))
    assert torch.equal(attacked[0], next(iter(others))[0])
    assert counted == [len(others.dataset)]  # type: ignore[arg-type]
    assert "lr-SGD" in run.callback_metrics


class Changing(PlainSGD):
    """Begins to change x in an epoch's second batch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x if batch_idx == 0 else 0.5 * x + 0.1), y)


def test_a_further_fit_knows_where_examples_are_crafted() -> None:
    module, expected = foreign(Changing), foreign(Changing)
    run = fit(module, CALLBACKS["AdversarialTraining"](), max_epochs=2)
    run.fit_loop.max_epochs = 3
    run.fit(module, loader(), loader(seed=1))
    fit(expected, CALLBACKS["AdversarialTraining"](), max_epochs=3)
    assert_same(module, expected, tolerance=0.0)


@pytest.mark.parametrize("mvl", [None, ["net.relu1"]])
def test_a_module_that_was_rebuilt_is_penalised_where_it_is_analysed(mvl: list[str] | None) -> None:
    callback = ATLR(pgd(), layers=["net.relu1"], mvl=mvl, eta=-10)
    module = foreign(PlainSGD)
    module.net.dropout = module.net.relu2 = module.net.relu1 = torch.nn.ReLU()
    run = fit(module, callback)
    assert len([name for name in callback.mvl or [] if name.startswith("net.relu1")]) == 3
    module.net.dropout = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 1), module.net.relu1)
    module.net.fc1 = torch.nn.Linear(5 * 64, 8)
    seen: list[dict[str, torch.Size]] = []
    penalty = ATLR.penalty

    def penalised(self: ATLR, clean: dict[str, torch.Tensor], *others: Any) -> torch.Tensor:
        seen.append({name: value.shape[1:] for name, value in clean.items()})
        return penalty(self, clean, *others)

    run.fit_loop.max_epochs = 3
    with patch.object(ATLR, "penalty", penalised):
        run.fit(module, loader(), loader(seed=1))
    assert {name: shape[0] for name, shape in seen[-1].items()} == {
        f"net.relu1#{k}": c for k, c in enumerate((4, 4, 5))
    }


def test_what_is_validated_between_two_fits_is_not_of_training() -> None:
    callback = CALLBACKS["RobustValidation"]()
    module = foreign(PlainSGD)
    run = fit(module, callback, max_epochs=3)
    measured = dict(callback._latest)  # type: ignore[attr-defined]
    run.validate(module, loader(seed=4), verbose=False)
    assert callback._latest == measured  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_a_fixed_list_is_resolved_anew_for_each_module() -> None:
    callback = ATLR(pgd(), mvl=["net.relu1"])
    shared = foreign()
    shared.net.relu2 = shared.net.relu1
    fit(shared, callback)
    assert callback.mvl == ["net.relu1#0", "net.relu1#1"]
    fit(foreign(), callback)
    assert callback.mvl == ["net.relu1"]


def test_warnings_are_given_again_in_the_next_fit() -> None:
    callback = ATLR(pgd(), eta=100.0)
    for _ in range(2):
        with pytest.warns(UserWarning, match="No layer is in the MVL"):
            fit(foreign(), callback)


def test_a_second_fit_with_a_checkpoint_goes_on(tmp_path: Path) -> None:
    callback, whole = ATLR(pgd(), top_k=1), ATLR(pgd(), top_k=1)
    module, expected = foreign(), foreign()
    fit(module, callback, max_epochs=2).save_checkpoint(tmp_path / "two.ckpt")
    trainer([callback], max_epochs=3).fit(module, loader(), loader(seed=1), ckpt_path=tmp_path / "two.ckpt")
    fit(expected, whole, max_epochs=3)
    assert [entry.epoch for entry in callback.history] == [0, 1, 2]
    assert_same(module, expected, tolerance=0.0)


OTHERS: dict[str, Made] = {**CALLBACKS, "AWP": AdversarialWeightPerturbation}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_package_of_lightning_is_named(name: str) -> None:
    other = pytest.importorskip("pytorch_lightning")
    callbacks = [OTHERS[name]()]
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    run = other.Trainer(callbacks=callbacks, enable_progress_bar=False, **options)

    class Module(other.LightningModule):
        def training_step(self, batch: Any) -> Any:
            return None

        def configure_optimizers(self) -> None:
            return None

    with pytest.raises(MisconfigurationException, match=r"write `import lightning.pytorch as pl` instead of"):
        run.fit(Module(), loader())


@pytest.mark.parametrize("name", OTHERS)
def test_callbacks_can_be_copied_and_pickled_in_a_fit(name: str) -> None:
    copies: list[pl.Callback] = []

    class Copying(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            ours = [c for c in trainer.callbacks if type(c).__module__.startswith("lsa_lightning")]  # type: ignore[attr-defined]
            copies.extend(copy.deepcopy(ours))
            copies.extend(pickle.loads(pickle.dumps(ours)))

    callbacks = [OTHERS[name](), Copying()]
    if name == "AWP":
        callbacks.append(AdversarialTraining(pgd()))
    module, expected = foreign(), foreign()
    for run, given in ((module, callbacks), (expected, [c for c in callbacks if not isinstance(c, Copying)])):
        torch.manual_seed(1)
        trainer(given).fit(run, loader(), loader(seed=1))
    assert copies
    assert_same(module, expected, tolerance=0.0)


@pytest.mark.parametrize("first", [True, False])
def test_a_search_for_the_learning_rate_is_not_adversarial_and_says_so(first: bool, tmp_path: Path) -> None:
    calls: list[int] = []

    class Counted(FGSM):
        def __call__(self, *args: Any) -> torch.Tensor:
            calls.append(1)
            return super().__call__(*args)

    finder = LearningRateFinder(num_training_steps=5, max_lr=0.1)
    ours = [ATLR(Counted(0.1), mvl=MVL, analysis_every_n_epochs=0), AdversarialWeightPerturbation()]
    module = foreign()
    run = trainer([finder, *ours] if first else [*ours, finder], default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="searches without callbacks, so it is not adversarial"):
        run.fit(module, loader(), loader(seed=1))
    assert len(finder.optimal_lr.results["loss"]) > 0  # type: ignore[union-attr]
    assert len(calls) == len(loader())


def test_a_search_within_a_fit_leaves_the_steps_as_they_are(tmp_path: Path) -> None:
    class Within(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None:
            """Not yet."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            guards.append(callback._guard)
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    callback, guards = ATLR(pgd(), mvl=["net.relu1"]), list[CollapseGuard]()
    module = foreign()
    run = trainer([Within(num_training_steps=5, update_attr=False), callback], max_epochs=2, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="searches without callbacks"):
        run.fit(module, loader(), loader(seed=1))
    assert callback._step is not None
    assert guards[0] is callback._guard


def test_the_tuner_works_beside_the_callbacks(tmp_path: Path) -> None:
    run = trainer([ATLR(pgd())], default_root_dir=tmp_path)
    module = foreign()
    with pytest.warns(UserWarning, match="LearningRateFinder searches without callbacks"):
        found = Tuner(run).lr_find(module, loader(), loader(seed=1), num_training=5)
    assert found is not None
    assert "training_step" not in vars(module)
    run.fit(module, loader(), loader(seed=1))


@pytest.mark.parametrize("failed", [False, True])
def test_a_process_that_failed_waits_for_no_other_when_it_saves(failed: bool) -> None:
    callback, run = AdversarialTraining(FGSM(0.1)), trainer([])
    if failed:
        run.state.status = TrainerStatus.INTERRUPTED
    checkpoint: dict[str, Any] = {"callbacks": {callback.state_key: callback.state_dict()}}
    asked = []

    def gathered(own: Any) -> list[Any]:
        asked.append(own)
        return [own, own]

    with patch.object(base, "place", lambda: (0, 2)), patch.object(base, "gathered", gathered):
        callback.on_save_checkpoint(run, foreign(), checkpoint)
    assert len(asked) == (0 if failed else 1)
    assert ("processes" in checkpoint["callbacks"][callback.state_key]) != failed
