from __future__ import annotations

import copy
import csv
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import DictForeignModule, ForeignModule, as_dicts, loader, trainer
from tests.helpers.reference_loop import at_lr_loop
from tests.helpers.training import LAYERS, MVL, assert_same, fit, foreign, pgd, reference
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lsa_lightning import ATLR, AdversarialTraining, LayerSustainabilityAnalysis, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM
from lsa_lightning.layers.report import AnalysedEpoch, SustainabilityReport
from lsa_lightning.measures import ComparisonMeasure, KLDivergence, RelativeSquaredError
from lsa_lightning.objectives import TRADES
from lsa_lightning.regularizers import LinearRamp, TrainingRamp
from lsa_lightning.selectors import Amplification, Level, Selector
from lsa_lightning.unlabelled import PartOfBatch, Unlabelled

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"clip": 0.5}, {"accumulate": 2, "clip": 0.5}],
    ids=lambda o: "+".join(o) or "plain",
)
def test_one_epoch_equals_the_hand_written_loop(options: dict[str, Any], dropout: float) -> None:
    module, expected = foreign(dropout=dropout), foreign(dropout=dropout)
    fit(
        module,
        ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL),
        accumulate_grad_batches=options.get("accumulate", 1),
        gradient_clip_val=options.get("clip"),
    )
    assert_same(module, reference(expected, dict.fromkeys(MVL, 0.5), **options))


def test_dict_batches_and_dict_outputs_equal_the_hand_written_loop() -> None:
    module, expected = foreign(DictForeignModule), foreign()
    fit(module, ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL), collate=as_dicts)
    assert_same(module, reference(expected, dict.fromkeys(MVL, 0.5)))


def test_gamma_by_layer_and_epochs_of_ramp_and_warmup_equal_the_hand_written_loop() -> None:
    module, expected = foreign(), foreign()
    regularizer = LayerwiseRegularizer(gamma={"net.act": 0.5, "net.relu1": 0.25}, schedule=LinearRamp(2))
    fit(module, ATLR(pgd(), regularizer=regularizer, mvl=MVL, warmup_epochs=1), max_epochs=3)
    torch.manual_seed(1)
    optimizer, attack = expected.configure_optimizers(), pgd()
    for factor in (0.0, 0.5, 1.0):
        gamma = {"net.act": 0.5 * factor, "net.relu1": 0.25 * factor}
        at_lr_loop(expected, loader(), attack, optimizer, expected.net.hidden, gamma)
    assert_same(module, expected)


def test_gamma_by_the_share_of_training_equals_the_hand_written_loop() -> None:
    module, expected = foreign(), foreign()
    regularizer = LayerwiseRegularizer(gamma=0.5, schedule=TrainingRamp(0.25, 0.75))
    fit(module, ATLR(pgd(), regularizer=regularizer, mvl=MVL), max_epochs=2)
    torch.manual_seed(1)
    optimizer, attack = expected.configure_optimizers(), pgd()
    for step in range(6):
        gamma = dict.fromkeys(MVL, 0.5 * min(1.0, max(0.0, (step / 6 - 0.25) / 0.5)))
        batch = [list(loader())[step % 3]]
        at_lr_loop(expected, batch, attack, optimizer, expected.net.hidden, gamma)
    assert_same(module, expected)


@pytest.mark.parametrize("schedule", [None, LinearRamp(2), TrainingRamp(0.1, 0.5), TrainingRamp(0.4, 0.5)])
def test_the_parts_of_the_loss_add_up_in_every_epoch(schedule: Any) -> None:
    epochs: list[tuple[float, dict[str, float]]] = []

    class Sums(pl.Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            self.total, self.samples = 0.0, 0

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
            self.total += float(outputs["loss"]) * len(batch[0])
            self.samples += len(batch[0])

        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            parts = {name: float(trainer.callback_metrics[name]) for name in ("train/loss_base", "train/loss_lr")}
            epochs.append((self.total / self.samples, parts))

    torch.manual_seed(1)
    atlr = ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5, schedule=schedule), mvl=MVL)
    trainer([atlr, Sums()], max_epochs=3).fit(foreign(), loader(), loader(seed=1))
    assert len(epochs) == 3
    for loss, parts in epochs:
        assert sum(parts.values()) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("gamma", "warmup", "logged"), [(0.5, 0, True), (0.5, 1, False), (0.0, 0, False)])
def test_a_penalty_that_waits_is_logged_as_0_and_one_that_nobody_asked_for_is_not(
    gamma: float, warmup: int, logged: bool
) -> None:
    regularizer = LayerwiseRegularizer(gamma, schedule=TrainingRamp(0.9, 1.0))  # no step of this fit is penalised
    run = fit(foreign(), ATLR(pgd(), regularizer=regularizer, mvl=MVL, warmup_epochs=warmup), max_epochs=1)
    assert ("train/loss_lr" in run.callback_metrics) == logged
    assert float(run.callback_metrics.get("train/loss_lr", 0.0)) == 0.0


def test_the_share_of_training_goes_by_steps_where_these_end_it() -> None:
    shares: list[float] = []
    callback = ATLR(pgd(), mvl=MVL)
    callback.before_step.append(lambda *_: shares.append(callback._share))
    fit(foreign(), callback, max_epochs=100, max_steps=4)
    assert shares == [0.0, 0.25, 0.5, 0.75]


def test_a_share_of_training_without_an_end_is_refused() -> None:
    regularizer = LayerwiseRegularizer(schedule=TrainingRamp())
    with pytest.raises(MisconfigurationException, match="expects max_epochs or max_steps, got neither"):
        fit(foreign(), ATLR(pgd(), regularizer=regularizer, mvl=MVL), max_epochs=-1)


class OwnLogits(ForeignModule):
    """Returns more than logits."""

    def forward(self, x: Tensor) -> Any:
        return {"classes": self.net(x), "noise": x}

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(self(x)["classes"], y)

    def validation_step(self, batch: Any) -> None:
        self(batch[0])


class Kept(LayerwiseRegularizer):
    """Keeps the clean representations of each step."""

    def __init__(self) -> None:
        super().__init__(0.5, measure=RelativeSquaredError())
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, clean: Any, perturbed: Any, epoch: int = 0) -> Tensor:  # type: ignore[override]
        self.seen.append({**clean})
        return super().__call__(clean, perturbed, epoch)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("cls", [ForeignModule, OwnLogits])
@pytest.mark.parametrize("objective", [None, TRADES(0.0)])
def test_what_the_model_returns_is_penalised_like_a_layer(
    output: str, cls: type[ForeignModule], objective: TRADES | None
) -> None:
    regularizer = Kept()
    read: dict[str, Any] = {} if cls is ForeignModule else {"output_fn": lambda out: out["classes"]}
    fit(foreign(cls), ATLR(pgd(), objective, regularizer=regularizer, mvl=["net.act", output], **read))
    assert all(list(clean) == ["net.act", output] and clean[output].shape == (16, 3) for clean in regularizer.seen)
    logits = foreign(cls).train().net(next(iter(loader()))[0])
    first = regularizer.seen[0][output]
    torch.testing.assert_close(first, logits.softmax(1) if output == "probabilities" else logits)


def test_all_learnable_layers_and_the_logits_are_a_list() -> None:
    module, callback = foreign(), ATLR(pgd(), mvl=["learnable", "logits"], layers=["learnable", "logits"])
    fit(module, callback)
    assert callback.mvl == [*LAYERS, "logits"]
    assert callback.history[0].report.layers == [*LAYERS, "logits"]
    named = foreign()
    fit(named, ATLR(pgd(), mvl=[*LAYERS, "logits"]))
    assert_same(module, named, tolerance=0.0)


def test_the_logits_of_a_model_that_the_step_never_calls_are_missed() -> None:
    class CallsTheNet(ForeignModule):
        def training_step(self, batch: Any) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    with pytest.raises(MisconfigurationException, match="expected training_step to call the model itself"):
        fit(foreign(CallsTheNet), ATLR(pgd(), mvl=["net.act", "logits"]))
    callback = ATLR(pgd(), mvl=["act", "logits"], backbone="net", analysis_every_n_epochs=0)
    fit(foreign(CallsTheNet), callback)
    assert callback.mvl == ["act", "logits"]


@pytest.mark.parametrize("selector", [Amplification(top_k=1), Amplification(above=0.0), Level(0.01)], ids=repr)
def test_a_selector_takes_algorithm_1s_place(selector: Any) -> None:
    callback = ATLR(pgd(), mvl=selector)
    fit(foreign(), callback, max_epochs=2)
    assert not callback.fixed
    assert [entry.mvl for entry in callback.history] == [selector(entry.report) for entry in callback.history]
    assert callback.mvl == callback.history[-1].mvl != []


def test_a_selector_that_chooses_nothing_is_named_and_top_k_beside_one_refused() -> None:
    with pytest.warns(UserWarning, match=r"Level\(level=100.0\) chooses no layer"):
        fit(foreign(), ATLR(pgd(), mvl=Level(100.0)))
    with pytest.raises(ValueError, match="ATLR: expected top_k to be None beside a selector"):
        ATLR(pgd(), mvl=Level(1.0), top_k=1)


def test_the_penalty_changes_training() -> None:
    module, plain = foreign(), foreign()
    fit(module, ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL))
    fit(plain, AdversarialTraining(pgd()))
    assert (module.net.fc1.weight - plain.net.fc1.weight).abs().max() > 1e-4


class Nothing(ComparisonMeasure):
    """Makes both passes run, but adds exactly nothing."""

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        return (clean - perturbed).flatten(1).sum(1) * 0.0


@pytest.mark.parametrize("regularizer", [LayerwiseRegularizer(gamma=0.0), LayerwiseRegularizer(1.0, measure=Nothing())])
@pytest.mark.parametrize("mvl", [MVL, None])
def test_without_an_effect_of_the_penalty_it_is_plain_adversarial_training(
    regularizer: LayerwiseRegularizer, mvl: list[str] | None
) -> None:
    module, plain = foreign(dropout=0.5), foreign(dropout=0.5)
    fit(module, ATLR(pgd(), regularizer=regularizer, mvl=mvl, top_k=None if mvl else 2), max_epochs=2)
    fit(plain, AdversarialTraining(pgd()), max_epochs=2)
    assert_same(module, plain, tolerance=0.0)


def test_trades_and_the_penalty_share_their_two_passes() -> None:
    module = foreign()
    passes: list[int] = []
    module.net.register_forward_hook(lambda net, *_: passes.append(1) if net.training else None)
    fit(
        module, ATLR(pgd(), TRADES(beta=1.0), regularizer=LayerwiseRegularizer(0.5), mvl=MVL, analysis_every_n_epochs=0)
    )
    assert len(passes) == 2 * len(loader()) + 1  # the first is repeated once, see kept_state


def test_the_clean_pass_ends_at_the_deepest_layer() -> None:
    module = foreign()
    calls = {"conv2": 0, "fc1": 0}
    module.net.conv2.register_forward_hook(lambda m, *_: calls.update(conv2=calls["conv2"] + m.training))
    module.net.fc1.register_forward_hook(lambda m, *_: calls.update(fc1=calls["fc1"] + m.training))
    fit(module, ATLR(pgd(), mvl=["net.relu2"], analysis_every_n_epochs=0))
    assert calls == {"conv2": 2 * len(loader()) + 1, "fc1": len(loader())}


def test_the_list_is_what_the_analysis_of_the_validation_batches_gives() -> None:
    module = foreign()
    callback = ATLR(pgd(), analysis_attack=FGSM(eps=0.1), eta=0.1)
    fit(module, callback)
    report = LayerSustainabilityAnalysis(module).run(loader(seed=1), FGSM(eps=0.1))
    assert callback.mvl == report.most_vulnerable(eta=0.1) != []
    assert callback.history[0]["mean"] == pytest.approx(report.mean.tolist(), abs=1e-6)
    assert report.layers == LAYERS


def test_the_first_epoch_is_regularized_with_a_list_of_its_own() -> None:
    seen: list[list[str]] = []

    class Spy(ATLR):
        def penalized_layers(self, epoch: int) -> list[str]:
            seen.append(super().penalized_layers(epoch))
            return seen[-1]

    fit(foreign(), Spy(pgd(), top_k=1))
    assert all(len(layers) == 1 for layers in seen)


def test_history_of_a_checkpoint_of_before_the_new_names_is_read() -> None:
    report = LayerSustainabilityAnalysis(foreign().net).run(loader(), pgd())
    old = {**AnalysedEpoch(2, report, ["net.act"]).to_dict(), "perturber": "PGD()", "measure": "RelativeError()"}
    del old["attack"]
    callback = ATLR(pgd())
    callback.load_state_dict({**callback.state_dict(), "mvl": ["net.act"], "history": [old]})
    (entry,) = callback.history
    assert (entry.epoch, entry.mvl, entry.report.attack) == (2, ["net.act"], "PGD()")
    assert entry.report.measure == "relative_error"


def test_history_has_one_entry_per_analysed_epoch() -> None:
    callback = ATLR(pgd(), analysis_every_n_epochs=2, analysis_limit_batches=1)
    fit(foreign(), callback, max_epochs=5)
    assert [entry["epoch"] for entry in callback.history] == [1, 3]
    assert {entry["samples"] for entry in callback.history} == {16}


def test_several_validation_runs_in_an_epoch_leave_one_entry() -> None:
    callback = ATLR(pgd())
    fit(foreign(), callback, val_check_interval=1)
    assert [entry["epoch"] for entry in callback.history] == [0]


def test_logs_every_key_of_the_contract() -> None:
    metrics = fit(foreign(), ATLR(pgd(), top_k=1)).callback_metrics
    assert {f"lsa/relative_error/{i:02d}_{name}" for i, name in enumerate(LAYERS)} <= set(metrics)
    assert sum(float(metrics[f"lsa/in_mvl/{i:02d}_{name}"]) for i, name in enumerate(LAYERS)) == 1
    assert {"lsa/mu", "lsa/sigma", "lsa/mvl_size", "train/loss_base", "train/loss_lr"} <= set(metrics)
    assert float(metrics["lsa/mvl_size"]) == 1


def rows_of(run: pl.Trainer, key: str) -> list[tuple[int, int]]:
    """Epoch and step of the rows of the CSV file that hold ``key``."""
    assert run.logger is not None
    rows = csv.DictReader((Path(run.logger.log_dir or "") / "metrics.csv").open())
    return [(int(row["epoch"]), int(row["step"])) for row in rows if row.get(key)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 0), (0, 2), (1, 5)]),
        ({"check_val_every_n_epoch": 2}, [(0, 0), (1, 5)]),
        ({"val_check_interval": 2, "check_val_every_n_epoch": None}, [(0, 0), (0, 1), (1, 3), (1, 5)]),
        ({"num_sanity_val_steps": 1}, [(0, 0), (0, 2), (1, 5)]),
    ],
)
def test_the_first_list_is_logged_before_the_first_step(
    options: dict[str, Any], expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    run = fit(foreign(), ATLR(pgd()), max_epochs=2, logger=CSVLogger(tmp_path), **options)
    for key in ("lsa/mu", "lsa/mvl_size", "lsa/relative_error/00_net.relu1", "lsa/in_mvl/00_net.relu1"):
        assert rows_of(run, key) == expected


def test_the_latest_profile_is_logged_again_in_epochs_that_are_not_analysed(tmp_path: Path) -> None:
    stop = EarlyStopping("lsa/mu", patience=9)
    callback = ATLR(pgd(), analysis_every_n_epochs=2)
    run = trainer([callback, stop], max_epochs=3, logger=CSVLogger(tmp_path))
    run.fit(foreign(), loader(), loader(seed=1))
    assert [epoch for epoch, _ in rows_of(run, "lsa/mu")] == [0, 0, 1, 2]
    assert float(run.callback_metrics["lsa/mu"]) == pytest.approx(float(callback.history[-1].report.mu))


@pytest.mark.parametrize(
    "options",
    [
        {"overfit_batches": 1},
        {"fast_dev_run": True},
        {"limit_val_batches": 0.5},
        {"reload_dataloaders_every_n_epochs": 1, "check_val_every_n_epoch": 3},
        {"accumulate_grad_batches": 2},
        {"max_steps": 4, "max_epochs": -1},
    ],
    ids=str,
)
def test_options_of_the_trainer_leave_a_first_list(options: dict[str, Any]) -> None:
    callback = ATLR(pgd(), top_k=1)
    fit(foreign(), callback, **{"max_epochs": 2, **options})
    assert len(callback.mvl or []) == 1


def test_no_batches_to_validate_are_said_to_be_missing() -> None:
    with pytest.raises(MisconfigurationException, match="this run has none: expected a validation dataloader"):
        fit(foreign(), ATLR(pgd()), limit_val_batches=0)


def test_an_epoch_of_skipped_batches_changes_nothing() -> None:
    class Skipping(ForeignModule):
        def training_step(self, batch: Any) -> None:
            super().training_step(batch)

    module, before = foreign(Skipping), foreign()
    fit(module, ATLR(pgd(), top_k=1))
    assert_same(module.net, before.net, tolerance=math.inf)
    assert torch.equal(module.net.fc1.weight, before.net.fc1.weight)


class Averaging(WeightAveraging):
    """Of the weights after each step."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None


def test_averaged_weights_are_analysed_at_any_place_in_the_list() -> None:
    profiles = []
    for first in (True, False):
        callback, average = ATLR(pgd(), top_k=1), Averaging(use_buffers=False)
        module = foreign(lr=0.5)
        torch.manual_seed(1)
        run = trainer([callback, average] if first else [average, callback], max_epochs=2)
        run.fit(module, loader(), loader(seed=1))
        profiles.append([entry.report.mean.tolist() for entry in callback.history])
    plain = ATLR(pgd(), top_k=1)
    fit(foreign(lr=0.5), plain, max_epochs=2)
    assert profiles[0] == profiles[1]
    assert profiles[0] != [entry.report.mean.tolist() for entry in plain.history]


def test_an_empty_list_trains_as_plain_adversarial_training_and_says_so_once() -> None:
    module, plain = foreign(), foreign()
    with pytest.warns(UserWarning, match=r"above mu \+ 100 sigma, got at most \+\d\.\d+ sigma \(net\.") as warnings:
        fit(module, ATLR(pgd(), eta=100.0), max_epochs=3)
    assert len([w for w in warnings if "No layer is in the MVL" in str(w.message)]) == 1
    fit(plain, AdversarialTraining(pgd()), max_epochs=3)
    assert_same(module, plain, tolerance=0.0)


def test_a_report_gives_the_list(tmp_path: Path) -> None:
    report = LayerSustainabilityAnalysis(foreign()).run(loader(), FGSM(eps=0.1))
    callback = ATLR(pgd(), mvl=report, top_k=2)
    assert callback.mvl == report.most_vulnerable(top_k=2)
    fit(foreign(), callback)
    assert callback.mvl == report.most_vulnerable(top_k=2)


def test_validation_outside_of_fit_is_left_alone() -> None:
    callback = ATLR(pgd())
    trainer([callback]).validate(foreign(), loader(), verbose=False)
    assert callback.mvl is None
    assert callback.history == []


def test_no_validation_batches_are_an_error_unless_the_list_is_fixed() -> None:
    with pytest.raises(MisconfigurationException, match="expected a validation dataloader, or a fixed list"):
        trainer([ATLR(pgd())]).fit(foreign(), loader())
    trainer([ATLR(pgd(), mvl=MVL)]).fit(foreign(), loader())


def test_sanity_checks_are_not_analysed() -> None:
    callback = ATLR(pgd())
    fit(foreign(), callback, num_sanity_val_steps=1)
    assert len(callback.history) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_epochs": -1}, "ATLR: expected warmup_epochs to be an integer >= 0, got -1"),
        ({"analysis_every_n_epochs": 0}, "analysis_every_n_epochs to be an integer >= 1 .*, got 0"),
        ({"analysis_limit_batches": 0}, "expected analysis_limit_batches to be an integer >= 1 or None, got 0"),
        ({"top_k": 0}, "expected top_k to be an integer >= 1 or None, got 0"),
        ({"eta": float("nan")}, "expected eta to be a finite number, got nan"),
        ({"mvl": []}, "expected mvl to be a list of at least one value or None, got"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ATLR(pgd(), **arguments)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("mvl", {"mvl": ["net.conv9"]}),
        ("layers", {"layers": ["net.conv9"]}),
        ("gamma", {"regularizer": LayerwiseRegularizer(gamma={"net.conv9": 1.0})}),
    ],
)
def test_unknown_layer_names_are_refused_at_fit_start_with_those_that_exist(
    argument: str, arguments: dict[str, Any]
) -> None:
    module = foreign()
    expected = rf"{argument}: .*unknown \['net.conv9'\]; these exist: net, net.conv1"
    with pytest.raises(MisconfigurationException, match=expected):
        fit(module, ATLR(pgd(), **arguments))
    assert "training_step" not in vars(module)


def test_a_name_stands_for_all_calls_of_its_module() -> None:
    class Shared(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.net.relu2 = self.net.relu1

    callback = ATLR(pgd(), mvl="net.relu1", regularizer=LayerwiseRegularizer(gamma={"net.relu1": 0.5}))  # type: ignore[arg-type]
    metrics = fit(foreign(Shared), callback).callback_metrics
    assert callback.mvl == ["net.relu1#0", "net.relu1#1"]
    assert float(metrics["train/loss_lr"]) > 0


def test_an_attack_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"expected attack to be an Attack, such as PGD\(eps=8/255\), got 'pgd'"):
        ATLR("pgd")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"regularizer": 0.1}, "expected regularizer to be a LayerwiseRegularizer or None, got 0.1"),
        ({"analysis_dataloader": -1}, "expected analysis_dataloader to be an integer >= 0 or a name, got -1"),
        ({"eta": "0"}, "expected eta to be a finite number, got '0'"),
        ({"analysis_attack": "fgsm"}, "expected analysis_attack to be an Attack or None, got 'fgsm'"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ATLR(pgd(), **argument)


def test_a_second_atlr_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"expected one ATLR callback, .* got 2"):
        trainer([ATLR(pgd()), ATLR(FGSM(0.1))]).fit(foreign(), loader(), loader(seed=1))


def test_a_layer_that_never_runs_is_named() -> None:
    module = foreign()
    module.idle = nn.ReLU()
    with pytest.raises(MisconfigurationException, match=r"mvl: expected layers that run .*got \['idle'\]"):
        fit(module, ATLR(pgd(), mvl=["idle"], analysis_every_n_epochs=0))


def test_resuming_continues_list_history_and_random_starts(tmp_path: Path) -> None:
    whole, first, second = foreign(), foreign(), foreign()
    callback = ATLR(pgd(), top_k=1)
    fit(whole, callback, max_epochs=3)
    path = tmp_path / "after_one.ckpt"
    fit(first, ATLR(pgd(), top_k=1), max_epochs=1).save_checkpoint(path)
    resumed = ATLR(pgd(), top_k=1)
    trainer([resumed], max_epochs=3).fit(second, loader(), loader(seed=1), ckpt_path=path)
    assert_same(second, whole, tolerance=0.0)
    assert [entry.to_dict() for entry in resumed.history] == [entry.to_dict() for entry in callback.history]
    assert resumed.mvl == callback.mvl


class Changing(Selector):
    """One layer, which depends on the weights, but follows no order."""

    def __call__(self, report: SustainabilityReport) -> list[str]:
        return [report.layers[int(1e6 * float(report.mean.sum())) % len(report.layers)]]


class Resumable:
    """The batches of :func:`loader`, going on where it was saved."""

    def __init__(self) -> None:
        self.batches, self.next = list(loader()), 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self.next %= len(self)
        while self.next < len(self):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class SaveIn(pl.Callback):
    """Saves in each call of one hook."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.files: list[Path] = []

        def save(trainer: pl.Trainer, *_: Any) -> None:
            self.files.append(folder / f"{len(self.files)}.ckpt")
            trainer.save_checkpoint(self.files[-1])

        setattr(self, hook, save)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("interval", [1.0, 2])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_start", "on_validation_end"])
def test_a_checkpoint_from_before_an_analysis_that_is_due_leads_to_the_same_lists(
    hook: str, interval: float, averaged: bool, tmp_path: Path
) -> None:
    def run(*callbacks: pl.Callback, **options: Any) -> tuple[pl.LightningModule, ATLR]:
        module, atlr = foreign(), ATLR(pgd(), mvl=Changing(), regularizer=LayerwiseRegularizer(2.0))
        averaging = [WeightAveraging(avg_fn=lambda old, new, _: 0.5 * (old + new))] if averaged else []
        fitting = trainer([atlr, *averaging, *callbacks], max_epochs=3, val_check_interval=interval)
        fitting.fit(module, Resumable(), loader(seed=1), **options)
        return module, atlr

    saving = SaveIn(hook, tmp_path)
    whole, callback = run(saving)
    assert len({entry.mvl[0] for entry in callback.history}) > 1
    for file in saving.files:
        module, resumed = run(ckpt_path=file)
        assert_same(module, whole, tolerance=0.0)
        assert [entry.to_dict() for entry in resumed.history] == [entry.to_dict() for entry in callback.history]


@pytest.mark.parametrize("first", ["none", "some"])
def test_where_nothing_is_validated_nothing_is_made_up_for(first: str, tmp_path: Path) -> None:
    def run(validation: Any, **options: Any) -> ATLR:
        callback = ATLR(pgd(), mvl=["net.act"])
        trainer([callback], max_epochs=2).fit(foreign(), loader(), validation, **options)
        return callback

    saving = SaveIn("on_train_batch_end", tmp_path)
    trainer([ATLR(pgd(), mvl=["net.act"]), saving], max_epochs=1).fit(
        foreign(), loader(), loader(seed=1) if first == "some" else []
    )
    assert not run([], ckpt_path=saving.files[-1]).history


def test_what_an_error_kept_from_being_made_up_for_is_still_awaited(tmp_path: Path) -> None:
    saving = SaveIn("on_train_batch_end", tmp_path)
    trainer([ATLR(pgd(), top_k=1), saving], max_epochs=2).fit(foreign(), loader(), loader(seed=1))
    broken, kept = ATLR(pgd(), top_k=1), SaveIn("on_exception", tmp_path / "broken")
    broken._analyse = Mock(side_effect=RuntimeError("planted"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="planted"):
        trainer([broken, kept], max_epochs=2).fit(foreign(), loader(), loader(seed=1), ckpt_path=saving.files[2])
    resumed = ATLR(pgd(), top_k=1)
    trainer([resumed], max_epochs=2).fit(foreign(), loader(), loader(seed=1), ckpt_path=kept.files[-1])
    assert [entry.epoch for entry in resumed.history] == [0, 1]


class StopAfterEpoch(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def test_at_the_end_of_an_epoch_no_analysis_is_awaited_any_more(tmp_path: Path) -> None:
    saving = SaveIn("on_train_epoch_end", tmp_path)
    callback = ATLR(pgd(), top_k=1)
    fitting = trainer([callback, StopAfterEpoch(), saving], max_epochs=2, val_check_interval=2)
    fitting.fit(foreign(), loader(), loader(seed=1))
    resumed = ATLR(pgd(), top_k=1)
    trainer([resumed], max_epochs=1).fit(foreign(), loader(), loader(seed=1), ckpt_path=saving.files[0])
    assert [entry.to_dict() for entry in resumed.history] == [entry.to_dict() for entry in callback.history]


def test_what_is_made_up_for_is_logged_at_the_step_of_its_validation_run(tmp_path: Path) -> None:
    def run(name: str, *callbacks: pl.Callback, **options: Any) -> list[tuple[str, str]]:
        logger = CSVLogger(tmp_path, name=name)
        atlr = ATLR(pgd(), top_k=1)
        trainer([atlr, *callbacks], max_epochs=2, logger=logger).fit(foreign(), Resumable(), loader(seed=1), **options)
        with (Path(logger.log_dir) / "metrics.csv").open(newline="") as rows:
            return [(row["step"], row["lsa/mu"]) for row in csv.DictReader(rows) if row["lsa/mu"]]

    saving = SaveIn("on_train_batch_end", tmp_path)
    whole = run("whole", saving)
    assert run("resumed", ckpt_path=saving.files[2]) == whole[1:]


def test_the_checkpoint_loads_as_weights_only_and_without_the_callback(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fit(foreign(), ATLR(pgd(), top_k=1)).save_checkpoint(path)
    torch.load(path, weights_only=True)
    trainer([], max_epochs=2).fit(foreign(), loader(), ckpt_path=path)


def test_a_fixed_list_wins_over_the_checkpoint() -> None:
    state = ATLR(pgd()).state_dict() | {"mvl": ["net.relu2"]}
    callback = ATLR(pgd(), mvl=MVL)
    callback.load_state_dict(copy.deepcopy(state))
    assert callback.mvl == MVL


def test_the_softmax_is_not_taken_twice() -> None:
    regularizer = LayerwiseRegularizer(1.0, measure=KLDivergence())
    callback = ATLR(pgd(), regularizer=regularizer, mvl=["probabilities"])
    with pytest.raises(MisconfigurationException, match="expected the layer 'logits' with KLDivergence"):
        fit(foreign(), callback)


@pytest.mark.parametrize(
    ("options", "gamma", "message"),
    [
        ({"mvl": ["learnable"]}, {"learnable": 5.0}, r"single layers, or one number for all, got \['learnable'\]"),
        (
            {"mvl": ["net.relu1"]},
            {"net.conv1": 5.0},
            r"weights of the layers \['net.relu1'\], got those of \['net.conv1'",
        ),
        (
            {},
            {"net.conv1": 5.0},
            r"'net.relu2', 'net.act'\], got those of \['net.conv1'\], which are none",
        ),
    ],
)
def test_weights_of_layers_that_can_have_none_are_an_error(
    options: dict[str, Any], gamma: dict[str, float], message: str
) -> None:
    callback = ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma), **options)
    with pytest.raises(MisconfigurationException, match=f"gamma: expected .*{message}"):
        fit(foreign(), callback)


def test_a_weight_beside_others_that_can_act_is_warned_of() -> None:
    regularizer = LayerwiseRegularizer({"net.conv1": 5.0, "net.act": 1.0})
    with pytest.warns(UserWarning, match=r"got those of \['net.conv1'\], which are none of them"):
        fit(foreign(), ATLR(pgd(), regularizer=regularizer, top_k=3), max_epochs=2)


def test_a_selector_may_name_what_is_not_analysed() -> None:
    class Outputs(Selector):
        def __call__(self, report: SustainabilityReport) -> list[str]:
            return ["logits"]

    run = fit(foreign(), ATLR(pgd(), regularizer=LayerwiseRegularizer({"logits": 1.0}), mvl=Outputs()))
    assert float(run.callback_metrics["train/loss_lr"]) > 0


def test_batches_of_one_are_not_analysed_beside_a_fixed_list() -> None:
    regularizer, single = LayerwiseRegularizer(1.0, measure=RelativeSquaredError()), loader(3).dataset
    val = DataLoader(single, batch_size=1)
    with pytest.warns(UserWarning, match="The layers are not analysed: expected a dataloader with 2"):
        trainer([ATLR(pgd(), regularizer=regularizer, mvl=MVL)]).fit(foreign(), loader(), val)
    with pytest.raises(ValueError, match="2 samples in a batch, got fewer"):
        trainer([ATLR(pgd(), regularizer=regularizer)]).fit(foreign(), loader(), val)


def test_an_analysis_that_would_take_the_softmax_twice_is_refused_at_once() -> None:
    regularizer = LayerwiseRegularizer(1.0, measure=KLDivergence())
    callback = ATLR(pgd(), regularizer=regularizer, layers=["logits", "probabilities"], top_k=1)
    with pytest.raises(MisconfigurationException, match="layers: expected the layer 'logits' with KLDivergence"):
        fit(foreign(), callback)


class TrainsNowAndThen(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        self.net.conv1.requires_grad_(self.global_step == 1)
        self.net.bn1.requires_grad_(self.global_step == 1)
        return super().training_step(batch)


@pytest.mark.parametrize("what", ["labelled", "unlabelled", "trainable", "now and then"])
def test_a_penalty_that_cannot_teach_anything_is_said(what: str) -> None:
    module = foreign(TrainsNowAndThen if what == "now and then" else ForeignModule)
    if what in ("labelled", "unlabelled"):
        module.net.conv1.requires_grad_(False)
        module.net.bn1.requires_grad_(False)
    unlabelled = Unlabelled(PartOfBatch(), only=True) if what == "unlabelled" else None
    callback = ATLR(pgd(), mvl=["net.relu1", "net.act"], unlabelled=unlabelled)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, callback)
    said = [str(each.message) for each in caught if "taught nothing" in str(each.message)]
    assert len(said) == (what in ("labelled", "unlabelled"))
    assert all("before the layers ['net.relu1'] trained" in words for words in said)


class Collecting(ForeignModule):
    def on_validation_epoch_start(self) -> None:
        self.seen: list[int] = []

    def validation_step(self, batch: Any) -> None:
        self.seen.append(len(batch[0]))
        super().validation_step(batch)


def test_what_validation_hooks_make_is_missed_with_a_reason_before_the_first_validation() -> None:
    with pytest.raises(MisconfigurationException, match=r"no attribute 'seen'.* to have in __init__ what its hooks"):
        fit(foreign(Collecting), ATLR(pgd()))
    fit(foreign(Collecting), ATLR(pgd()), num_sanity_val_steps=1)
