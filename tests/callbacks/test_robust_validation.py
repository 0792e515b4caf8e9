from __future__ import annotations

import csv
import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import DictForeignModule, ForeignModule, as_dicts, images, loader, one_batch, trainer
from tests.helpers.training import foreign
from tests.helpers.two_processes import two_processes

from lsa_lightning import ATLR, RobustValidation
from lsa_lightning.attacks import FGSM, NFGSM, PGD
from lsa_lightning.evaluation import evaluate_robustness

ATTACKS = {"fgsm": FGSM(0.1), "pgd": PGD(0.1, steps=3, seed=0)}


def validated(callback: RobustValidation, **kwargs: Any) -> dict[str, float]:
    module = foreign()
    run = trainer([callback])
    run.validate(module, loader(seed=1, **kwargs), verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


def test_accuracies_and_rg_equal_the_evaluation() -> None:
    metrics = validated(RobustValidation(ATTACKS, rg_attack="fgsm", rg_eps=[0.05, 0.1]))
    table = evaluate_robustness(foreign(), loader(seed=1), attacks={"fgsm": FGSM(0.1)}, eps=[0.05, 0.1])
    assert 100 * metrics["val/acc_clean"] == pytest.approx(table.accuracy["fgsm"][0], abs=1e-4)
    assert 100 * metrics["val/acc_fgsm"] == pytest.approx(table.accuracy["fgsm"][2], abs=1e-4)
    assert metrics["val/rg_score"] == pytest.approx(table.rg_score["fgsm"], abs=1e-3)
    assert 0 <= metrics["val/acc_pgd"] <= 1


def test_accuracies_do_not_depend_on_the_batch_size() -> None:
    callback = RobustValidation({"fgsm": FGSM(0.1)})
    assert validated(callback, batch_size=7) == pytest.approx(validated(callback, batch_size=48), abs=1e-6)


class Spy(FGSM):
    """Notes in which epochs, and on how many samples, it is asked for."""

    def __init__(self, run: pl.Trainer | None = None) -> None:
        super().__init__(0.1)
        self.run, self.epochs, self.samples, self.steps = run, list[int](), list[int](), list[int]()

    def with_eps(self, eps: float) -> Spy:
        return self

    def __call__(self, model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert self.run is not None
        self.epochs.append(self.run.current_epoch)
        self.samples.append(len(x))
        self.steps.append(self.run.global_step)
        return super().__call__(model, x, y)


def measured_epochs(every: int, **options: Any) -> Spy:
    spy = Spy()
    spy.run = trainer([RobustValidation({"spy": spy}, every_n_epochs=every, limit_batches=1)], **options)
    spy.run.fit(foreign(), loader(), loader(seed=1))
    return spy


def test_every_n_epochs_and_limit_batches() -> None:
    spy = measured_epochs(2, max_epochs=4)
    assert spy.epochs == [0, 1, 3]
    assert spy.samples == [16, 16, 16]


@pytest.mark.parametrize(
    ("every", "options", "epochs"),
    [
        (3, {"max_epochs": 5}, [0, 2, 4]),
        (10, {"max_epochs": 5}, [0, 4]),
        (3, {"max_epochs": 5, "check_val_every_n_epoch": 2}, [1, 3]),  # the fifth is not validated
        (4, {"max_epochs": 7, "check_val_every_n_epoch": 2}, [1, 3, 5]),
        (3, {"max_epochs": -1, "max_steps": 15}, [0, 2, 4]),
        (3, {"max_epochs": -1, "max_steps": 17}, [0, 2, 4]),  # ends within the sixth
        (3, {"max_epochs": 50, "max_steps": 5, "accumulate_grad_batches": 3}, [0, 2, 4]),
        (3, {"max_epochs": 2, "max_steps": 50}, [0, 1]),
        (2, {"max_epochs": 3, "check_val_every_n_epoch": None, "val_check_interval": 3}, [0, 1, 2]),
        (
            9,
            {"max_epochs": 5, "check_val_every_n_epoch": None, "val_check_interval": 7},
            [2, 4],
        ),  # after 7 and 14 of 15
        (9, {"max_epochs": 7, "check_val_every_n_epoch": None, "val_check_interval": 6}, [1, 5]),  # 6, 12, 18 of 21
    ],
)
def test_the_last_validation_run_is_measured(every: int, options: dict[str, Any], epochs: list[int]) -> None:
    """Whatever ``every_n_epochs`` divides: a learning rate that falls to 0 makes the last weights the best."""
    assert measured_epochs(every, **options).epochs == epochs


def test_the_last_epoch_can_be_the_best(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", monitor="val/acc_clean", mode="max")
    validation = RobustValidation({"fgsm": FGSM(0.01)}, every_n_epochs=50)
    run = trainer([validation, checkpoint], max_epochs=4, enable_checkpointing=True)
    run.fit(foreign(lr=0.02), loader(), loader())  # 37.5 % in the first, 68.8 % in the last
    assert checkpoint.best_model_path.endswith("epoch=3.ckpt")


def test_sanity_checks_and_training_are_left_alone() -> None:
    module, plain = foreign(dropout=0.5), foreign(dropout=0.5)
    for target, callbacks in ((module, [RobustValidation(ATTACKS)]), (plain, [])):
        torch.manual_seed(1)
        trainer(callbacks, max_epochs=2, num_sanity_val_steps=1).fit(target, loader(), loader(seed=1))
    for name, value in module.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_dict_batches_and_normalised_inputs() -> None:
    run = trainer([RobustValidation(ATTACKS, backbone="net", input_space=(0.0, 1.0))])
    run.validate(foreign(DictForeignModule), loader(collate=as_dicts), verbose=False)
    assert "val/acc_pgd" in run.callback_metrics


def test_the_key_can_be_monitored() -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    stop = EarlyStopping("val/acc_fgsm", mode="max", patience=0, strict=True)
    run = trainer([RobustValidation({"fgsm": FGSM(0.1)}), stop], max_epochs=20)
    run.fit(foreign(lr=0.0), loader(), one_batch(images(8)))
    assert stop.stopped_epoch > 0


def monitored(**options: Any) -> list[pl.Callback]:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    checkpoint = ModelCheckpoint(options.pop("folder"), monitor="val/acc_fgsm", mode="max", save_top_k=-1)
    stop = EarlyStopping("val/acc_fgsm", mode="max", patience=9)
    return [RobustValidation({"fgsm": FGSM(0.1)}, **options), stop, checkpoint]


def test_runs_that_are_not_measured_log_the_last_value_again(tmp_path: Path) -> None:
    logged: list[float] = []
    epochs: list[float] = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            logged.append(float(trainer.logged_metrics["val/acc_fgsm"]))
            epochs.append(float(trainer.logged_metrics["val/measured_epoch"]))

    run = trainer(
        [*monitored(every_n_epochs=3, folder=tmp_path), Watch()],
        max_epochs=6,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=True,
    )
    run.fit(foreign(), loader(), loader(seed=1))
    assert logged[0] == logged[1]
    assert logged[2] == logged[3] == logged[4]
    assert epochs == [0, 0, 2, 2, 2, 5]
    assert len(set(logged)) > 1
    assert run.logger is not None
    rows = csv.DictReader((Path(run.logger.log_dir or "") / "metrics.csv").open())
    assert [float(row["val/acc_fgsm"]) for row in rows if row["val/acc_fgsm"]] == pytest.approx(logged, abs=1e-6)


@pytest.mark.parametrize(("every", "interval", "patience"), [(5, 1, 4), (3, 2, 2)])
def test_an_early_stop_before_a_second_value_is_refused(every: int, interval: int, patience: int) -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    for enough in (False, True):
        stop = EarlyStopping("val/acc_fgsm", mode="max", patience=patience + enough)
        callbacks = [RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=every), stop]
        run = trainer(callbacks, max_epochs=9, limit_train_batches=1, check_val_every_n_epoch=interval)
        if enough:
            run.fit(foreign(), loader(), loader(seed=1))
        else:
            with pytest.raises(MisconfigurationException, match=f"repeat val/acc_fgsm: expected patience > {patience}"):
                run.fit(foreign(), loader(), loader(seed=1))


def test_an_early_stop_by_somebody_elses_metric_is_left_alone() -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    class Watching(pl.Callback):
        monitor = ("a", "b")

    validation = RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=5)
    callbacks = [validation, EarlyStopping("val/acc_fgsm_of_a_friend", patience=1, strict=False), Watching()]
    trainer(callbacks, max_epochs=9, max_steps=1).fit(foreign(), loader(), loader(seed=1))
    own = [validation, EarlyStopping("val/acc_fgsm", mode="max", patience=1)]
    trainer(own, max_epochs=2).fit(foreign(), loader(), loader(seed=1))  # too short to be stopped early
    by_batches = {"check_val_every_n_epoch": None, "val_check_interval": 1}
    trainer(own, max_epochs=9, max_steps=1, **by_batches).fit(foreign(), loader(), loader(seed=1))


@pytest.mark.parametrize(("most", "said"), [(2, True), (1, False), (-1, False)])
def test_checkpoints_of_epochs_that_were_not_measured_are_said(most: int, said: bool, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    for own in ({}, {"every_n_epochs": 2}):
        checkpoint = ModelCheckpoint(tmp_path, monitor="val/acc_fgsm", mode="max", save_top_k=most, **own)
        callbacks = [RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=2), checkpoint]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(callbacks, max_epochs=1, enable_checkpointing=True).fit(foreign(), loader(), loader(seed=1))
        assert any("repeated in between" in str(each.message) for each in caught) == (said and not own)


def test_a_resumed_run_still_knows_the_last_value(tmp_path: Path) -> None:
    logged: list[float] = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            logged.append(float(trainer.callback_metrics["val/acc_fgsm"]))

    callback = RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=5)
    first = trainer([callback, Watch()])
    first.fit(foreign(lr=0.02), loader(), loader(seed=1))
    first.save_checkpoint(tmp_path / "one.ckpt")
    again = RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=5)
    run = trainer([again, Watch()], max_epochs=3)
    run.fit(foreign(lr=0.02), loader(), loader(seed=1), ckpt_path=tmp_path / "one.ckpt")
    assert logged[0] == logged[1] != logged[2]


class Noted(pl.Callback):
    """Writes the metrics of a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.save(dict(trainer.callback_metrics), self.folder / f"{trainer.global_rank}.pt")


def test_two_processes_count_the_samples_that_one_counts(tmp_path: Path) -> None:
    module = foreign()
    module.net.fc2.bias.data = torch.tensor([0.0, 0.1, -0.1])
    callback, data = RobustValidation({"fgsm": FGSM(0.05)}, rg_attack="fgsm", rg_eps=[0.05]), loader(21, 4, seed=1)
    two_processes([callback, Noted(tmp_path)]).validate(module, data, verbose=False)
    run = trainer([callback])
    run.validate(module, data, verbose=False)
    for rank in (0, 1):
        metrics = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key in ("val/acc_clean", "val/acc_fgsm", "val/rg_score"):
            assert float(metrics[key]) == pytest.approx(float(run.callback_metrics[key]), abs=1e-4)


@pytest.mark.parametrize("name", ["clean", "", "a/b"])
def test_names_that_are_no_parts_of_keys_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"expected attacks to be named by text without '/', and not 'clean'.*got \["):
        RobustValidation({name: FGSM(0.1)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rg_attack": "cw", "rg_eps": [0.1]},
            r"RobustValidation: expected rg_attack to be one of \['fgsm', 'pgd'\].*got 'cw'",
        ),
        ({"rg_attack": "fgsm"}, r"rg_eps to be a list of at least one value, got \(\)"),
        ({"rg_attack": "fgsm", "rg_eps": [0.0, 0.1]}, r"rg_eps\[0\] to be a finite number > 0, got 0.0"),
        ({"prefix": ""}, "expected prefix to be a name, got ''"),
        ({"dataloaders": "a"}, "expected dataloaders to be a list of at least one value or None, got 'a'"),
        ({"dataloaders": []}, "expected dataloaders to be a list"),
        ({"every_n_epochs": 0}, "expected every_n_epochs to be an integer >= 1, got 0"),
        ({"limit_batches": 0}, "limit_batches to be an integer >= 1 or None, got 0"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustValidation(ATTACKS, **arguments)


def test_attacks_must_have_names() -> None:
    with pytest.raises(ValueError, match="expected attacks to be a mapping of at least one name, got FGSM"):
        RobustValidation(FGSM(0.1))  # type: ignore[arg-type]


def test_an_attack_that_leaves_its_ball_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected attacks.* to be an attack that stays within eps"):
        RobustValidation({"nfgsm": NFGSM(0.1)})


class OnLoaded(ForeignModule):
    """Moves its inputs in hooks of the loop, before its steps see them."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(0.5).mul_(4)

    def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(0.5).mul_(4)


class InStep(ForeignModule):
    """The same in its steps."""

    def training_step(self, batch: Any) -> torch.Tensor:
        return super().training_step(((batch[0] - 0.5) * 4, batch[1]))

    def validation_step(self, batch: Any) -> None:
        super().validation_step(((batch[0] - 0.5) * 4, batch[1]))


def test_what_the_module_does_to_a_batch_in_its_own_hook_is_seen() -> None:
    found = []
    for cls in (OnLoaded, InStep):
        attack = PGD(0.3, steps=2, bounds=None, seed=0)
        atlr, validation = ATLR(attack, mvl=["net.act"]), RobustValidation({"pgd": attack})
        run = trainer([atlr, validation], max_epochs=2)
        run.fit(foreign(cls), loader(), loader(seed=1))
        metrics = {key: float(value) for key, value in run.callback_metrics.items() if key.startswith("val/")}
        found.append((atlr.history[-1].report.mean, metrics))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1])


class LabelsRewritten(ForeignModule):
    """Has no further use for its labels, once it has validated."""

    def validation_step(self, batch: Any) -> None:
        super().validation_step(batch)
        batch[1].add_(1).remainder_(3)


class LabelsTaken(DictForeignModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        label = batch.pop("label")
        super().validation_step({**batch, "label": label}, batch_idx)


@pytest.mark.parametrize(("cls", "collate"), [(LabelsRewritten, None), (LabelsTaken, as_dicts)])
def test_labels_are_those_from_before_the_step(cls: type[ForeignModule], collate: Any) -> None:
    run = trainer([RobustValidation({"still": FGSM(0.0)})])
    run.validate(foreign(cls), loader(seed=1, collate=collate), verbose=False)
    assert run.callback_metrics["val/acc_still"] == run.callback_metrics["val/acc_clean"]


class Unsized(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(*images(), strict=True))


def test_the_last_of_a_stream_without_a_length_is_measured() -> None:
    spy = Spy()
    options: dict[str, Any] = {"check_val_every_n_epoch": None, "val_check_interval": 2, "max_epochs": -1}
    spy.run = trainer([RobustValidation({"spy": spy}, every_n_epochs=100, limit_batches=1)], max_steps=9, **options)
    spy.run.fit(foreign(), torch.utils.data.DataLoader(Unsized(), batch_size=16), loader(seed=1))
    assert spy.epochs == [0, 2]
    assert spy.steps == [2, 8]


def test_the_module_has_its_own_hook_after_an_error() -> None:
    class Failing(pl.Callback):
        def on_validation_batch_start(self, *_: Any) -> None:
            raise KeyError

    module = foreign()
    with pytest.raises(KeyError):
        trainer([RobustValidation(ATTACKS), Failing()]).fit(module, loader(), loader(seed=1))
    assert "on_validation_batch_start" not in vars(module)


def test_no_batch_is_kept_after_validation() -> None:
    callback = RobustValidation(ATTACKS)
    given: list[Any] = []

    class Weak(ForeignModule):
        def validation_step(self, batch: Any) -> None:
            given.append(weakref.ref(batch[0]))
            super().validation_step(batch)

    trainer([callback]).validate(foreign(Weak), loader(seed=1), verbose=False)
    gc.collect()
    assert given
    assert all(each() is None for each in given)
