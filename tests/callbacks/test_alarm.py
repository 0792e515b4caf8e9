from __future__ import annotations

import copy
import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import ForeignModule, ModularConvNet, loader, trainer
from tests.helpers.training import MVL, assert_same, fit, foreign, pgd
from torch import Tensor

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM, NFGSM, PGD, AdaptiveAttack
from lsa_lightning.callbacks import CollapseAlarm, LossFell, Overshot, SpreadLost
from lsa_lightning.callbacks.alarm import Signal, StepSeen
from lsa_lightning.objectives import TRADES
from lsa_lightning.unlabelled import PartOfBatch, Unlabelled

pytestmark = pytest.mark.usefixtures("float64")

LOGITS = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
Y = torch.tensor([0, 1, 1])


def levels(alarm: CollapseAlarm, *values: float) -> list[float]:
    found = []
    for value in values:
        alarm.hear(value)
        found.append(alarm.level)
    return found


def test_loss_fell_is_the_share_of_samples_whose_loss_is_lower_after_the_attack() -> None:
    after = LOGITS + torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # lower for the first sample alone
    share = LossFell()(StepSeen(Y, LOGITS, after, {}))
    assert share is not None
    assert float(share) == pytest.approx(1 / 3)
    binary = LossFell()(StepSeen(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1), {}))
    assert binary is not None
    assert float(binary) == 0.5
    assert LossFell()(StepSeen(Y, None, after, {})) is None


def overshot(move: list[list[float]], gradient: list[list[float]]) -> float:
    value = Overshot()(StepSeen(Y, None, None, {}, torch.tensor(move), torch.tensor(gradient)))
    assert value is not None
    return float(value)


def test_overshot_is_the_share_of_samples_whose_loss_falls_along_the_way_where_that_ends() -> None:
    move = [[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]
    assert overshot(move, [[2.0, -1.0], [1.0, 2.0], [-1.0, -1.0]]) == pytest.approx(1 / 3)
    assert overshot(move, [[-2.0, -1.0], [1.0, 2.0], [-1.0, -1.0]]) == pytest.approx(2 / 3)
    assert np.isnan(overshot(move, [[2.0, -1.0], [float("inf"), 2.0], [-1.0, -1.0]]))
    assert Overshot()(StepSeen(Y, LOGITS, LOGITS, {})) is None


def test_a_step_beyond_the_maximum_overshoots_before_its_loss_falls_below_the_start() -> None:
    x = torch.zeros(1, 1)
    for length, expected in ((0.9, (0.0, 0.0)), (1.5, (1.0, 0.0)), (2.5, (1.0, 1.0))):
        end = torch.full((1, 1), length, requires_grad=True)
        loss = 1 - (end - 1) ** 2  # its maximum is at 1, and its value at 2 is that at 0
        (gradient,) = torch.autograd.grad(loss.sum(), end)
        before, after = (torch.cat([(1 - (at - 1) ** 2), 0 * at], 1).detach() for at in (x, end))
        seen = StepSeen(torch.tensor([1]), before, after, {}, end.detach() - x, gradient)
        found = [signal(seen) for signal in (Overshot(), LossFell())]
        assert tuple(float(value) for value in found if value is not None) == expected


def test_spread_lost_is_1_for_a_layer_that_is_constant_over_the_batch() -> None:
    varied, constant = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2, 2)
    lost = [SpreadLost()(StepSeen(Y, None, None, layers)) for layers in ({"a": varied}, {"a": varied, "b": constant})]
    assert [float(value) for value in lost if value is not None] == [0.0, 1.0]
    assert SpreadLost()(StepSeen(Y, None, None, {})) is None


def test_it_rings_above_the_mean_plus_deviations_of_the_steps_before() -> None:
    values = [0.1, 0.3] * 10
    mean, deviation = np.mean(values), np.std(values)
    for excess, expected in ((-0.001, 0.0), (0.001, 1.0)):
        alarm = CollapseAlarm(smoothing=1, patience=20, memory=1000, rise=0.0)
        levels(alarm, *values)
        assert levels(alarm, float(mean + 2 * deviation) + excess) == [expected]


def test_a_rise_that_is_too_small_does_not_count_where_the_signal_stands_still() -> None:
    assert levels(CollapseAlarm(smoothing=1, patience=3, rise=0.1), 0.0, 0.0, 0.0, 0.09, 0.5) == [
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
    ]


def test_it_only_listens_at_first_and_the_level_decays_down_to_0() -> None:
    alarm = CollapseAlarm(smoothing=1, patience=2, decay=0.5)
    assert levels(alarm, 0.0, 0.9) == [0.0, 0.0]
    assert levels(alarm, 5.0, *[0.0] * 9) == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.0, 0.0]
    assert alarm.rang == 1


def test_a_single_step_is_smoothed_away() -> None:
    for smoothing, expected in ((1, 1), (5, 0)):
        alarm = CollapseAlarm(rise=0.05, smoothing=smoothing, patience=5)
        levels(alarm, *[0.0] * 10, 0.2, *[0.0] * 10)
        assert alarm.rang == expected


def test_it_rings_for_as_long_as_a_collapse_lasts() -> None:
    alarm = CollapseAlarm(patience=5, memory=5)
    levels(alarm, *[0.01] * 10, *[0.4] * 200)
    assert alarm.level == 1.0
    assert alarm.rang >= 199


def test_values_that_are_not_finite_change_nothing() -> None:
    alarm, other = CollapseAlarm(smoothing=1, patience=0), CollapseAlarm(smoothing=1, patience=0)
    levels(alarm, 0.1, float("nan"), 0.2)
    levels(other, 0.1, 0.2)
    assert alarm.state_dict() == other.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {"signal": 1},
        {"deviations": -1},
        {"decay": 1.1},
        {"memory": 0},
        {"smoothing": 0},
        {"patience": -1},
        {"rise": -0.1},
    ],
)
def test_arguments_outside_their_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"CollapseAlarm: expected {next(iter(options))} to be "):
        CollapseAlarm(**options)


class Seen(Signal):
    """Keeps what it is shown; its value is given."""

    name = "seen"

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.steps: list[StepSeen] = []

    def __call__(self, seen: StepSeen) -> Tensor:
        self.steps.append(seen)
        return torch.tensor(self.values.pop(0) if self.values else 0.0)


class KeepsBatches(pl.Callback):
    """Copies of the module before each step."""

    def __init__(self) -> None:
        self.nets: list[Any] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.nets.append(copy.deepcopy(pl_module.net))


@pytest.mark.parametrize("attack", [FGSM(0.1), PGD(0.1, steps=2, random_start=False)], ids=["FGSM", "PGD"])
def test_it_sees_the_logits_at_the_attacks_start_and_at_its_end(attack: Any) -> None:
    signal, keeps, module = Seen(), KeepsBatches(), foreign()
    callback = AdversarialTraining(attack, alarm=CollapseAlarm(signal))
    torch.manual_seed(1)
    trainer([callback, keeps]).fit(module, loader())
    assert len(signal.steps) == 3
    for seen, net, (x, y) in zip(signal.steps, keeps.nets, loader(), strict=True):
        assert seen.before is not None
        assert seen.after is not None
        x_adv = attack(net, x, y)
        torch.testing.assert_close(seen.before, net.eval()(x))
        torch.testing.assert_close(seen.after, net.train()(x_adv))
        assert torch.equal(seen.y, y)


def test_objectives_of_two_outputs_show_both_in_train_mode() -> None:
    signal = Seen()
    fit(foreign(), ATLR(pgd(), TRADES(1.0), mvl=MVL, alarm=CollapseAlarm(signal)))
    for seen in signal.steps:
        assert seen.before is not None
        assert seen.after is not None
        assert seen.clean.keys() == set(MVL)
        assert float((seen.before - seen.after).detach().abs().max()) > 0


class SeesGradients(Seen):
    """Keeps what it is shown, gradients included."""

    needs_gradient = True


class ShiftsInStep(ForeignModule):
    """The model is given another tensor than the batch's."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x - 0.5), y)


class LooksFirst(ForeignModule):
    """The model is called without gradients first."""

    def training_step(self, batch: Any) -> Tensor:
        shifted = batch[0] - 0.5
        with torch.no_grad():
            self(shifted)
        return F.cross_entropy(self(shifted), batch[1])


class ShiftsInPlace(ForeignModule):
    """The model changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _ShiftsInPlace()


class _ShiftsInPlace(ModularConvNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5))


class Scaled(ForeignModule):
    """A loss that is not the mean over samples."""

    def training_step(self, batch: Any) -> Tensor:
        loss: Tensor = super().training_step(batch)
        return 16 * loss


@pytest.mark.parametrize("objective", [None, TRADES(2.0)], ids=["AT", "TRADES"])
@pytest.mark.parametrize("cls", [ForeignModule, ShiftsInStep, LooksFirst, ShiftsInPlace, Scaled])
def test_it_sees_the_gradient_of_what_is_minimised(cls: type[ForeignModule], objective: Any) -> None:
    signal, keeps, module = SeesGradients(), KeepsBatches(), foreign(cls)
    attack = FGSM(0.1, bounds=None)
    torch.manual_seed(1)
    trainer([AdversarialTraining(attack, objective, alarm=CollapseAlarm(signal)), keeps]).fit(module, loader())
    assert len(signal.steps) == 3
    for seen, net, (x, y) in zip(signal.steps, keeps.nets, loader(), strict=True):
        given = x - 0.5 if issubclass(cls, ShiftsInStep | LooksFirst) else x
        x_adv = attack(net, given, y)
        end = x_adv.clone().requires_grad_()
        net.train()
        logits, scale = net(end.clone()), 16 if cls is Scaled else 1  # the model may change what it is given
        clean = net(given.clone())
        loss = scale * F.cross_entropy(logits, y) if objective is None else objective.term(clean, logits, y)
        (expected,) = torch.autograd.grad(loss, end)
        assert seen.move is not None
        assert seen.gradient is not None
        torch.testing.assert_close(seen.move, x_adv - given)
        torch.testing.assert_close(seen.gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_way_begins_at_a_random_start() -> None:
    signal = SeesGradients()
    fit(foreign(), AdversarialTraining(NFGSM(0.1, bounds=None, seed=0), alarm=CollapseAlarm(signal)))
    for seen in signal.steps:
        assert seen.move is not None
        torch.testing.assert_close(seen.move.abs(), torch.full_like(seen.move, 0.1))


@pytest.mark.parametrize("signal", [Overshot(), LossFell()])
def test_it_changes_nothing_of_training(signal: Signal) -> None:
    module, other = foreign(dropout=0.5), foreign(dropout=0.5)
    fit(module, AdversarialTraining(pgd(), alarm=CollapseAlarm(signal)), max_epochs=2)
    fit(other, AdversarialTraining(pgd()), max_epochs=2)
    assert_same(module, other, tolerance=0.0)


def test_a_gradient_is_seen_once() -> None:
    signal = SeesGradients()
    alarm, x = CollapseAlarm(signal), torch.zeros(3, 2)
    alarm.follow(x, x + 1).sum().backward()  # type: ignore[no-untyped-call]
    for _ in range(2):
        alarm.see(StepSeen(Y, None, None, {}))
    assert [seen.gradient is None for seen in signal.steps] == [False, True]
    assert torch.equal(signal.steps[0].move, torch.ones(3, 2))  # type: ignore[arg-type]


def test_callbacks_that_hook_in_get_plain_tensors() -> None:
    callback, seen = AdversarialTraining(pgd(), alarm=CollapseAlarm(Overshot())), list[Tensor]()
    callback.before_step.append(lambda model, x, x_adv, y: seen.append(x_adv))
    fit(foreign(), callback)
    assert [x_adv.requires_grad for x_adv in seen] == [False] * 3


class Skips(ForeignModule):
    """Skips its second batch."""

    steps = 0

    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        self.steps += 1
        return None if self.steps == 3 else loss  # the first one is begun twice


def test_a_step_that_is_skipped_shows_nothing() -> None:
    signal = SeesGradients()
    fit(foreign(Skips), AdversarialTraining(pgd(), alarm=CollapseAlarm(signal)))
    assert [seen.gradient is None for seen in signal.steps] == [False, False]


def test_it_is_logged(tmp_path: Path) -> None:
    signal = Seen(0.0, 1.0, 0.0)
    callback = AdversarialTraining(pgd(), alarm=CollapseAlarm(signal, smoothing=1, patience=1))
    fit(foreign(), callback, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1)
    (row,) = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/alarm_seen"]]
    assert float(row["train/alarm_seen"]) == pytest.approx(1 / 3)
    assert float(row["train/alarm_level"]) == pytest.approx(1 / 3)  # it rings in the step after


def test_a_gated_penalty_is_there_while_the_level_is_and_costs_no_pass_before() -> None:
    signal, module = Seen(0.0, 0.0, 1.0), foreign()
    passes: list[bool] = []
    module.net.conv1.register_forward_pre_hook(lambda layer, *_: passes.append(layer.training))
    alarm = CollapseAlarm(signal, smoothing=1, patience=1, decay=0.5)
    callback = ATLR(pgd(), regularizer=LayerwiseRegularizer(0.5), mvl=MVL, alarm=alarm, gated=True)
    layers: list[list[str]] = []
    callback.before_step.append(lambda *_: layers.append(callback.penalized_layers(0)))
    fit(module, callback, max_epochs=2)
    assert layers == [[], [], [], MVL, MVL, MVL]
    assert sum(passes) == 9 + 1  # the first with a penalty is repeated once, see kept_state
    assert alarm.level == 0.25


def test_the_level_multiplies_gamma() -> None:
    module, other = foreign(), foreign()
    fit(module, ATLR(pgd(), mvl=MVL, alarm=Loud(), gated=True, regularizer=LayerwiseRegularizer(1.0)))
    fit(other, ATLR(pgd(), mvl=MVL, regularizer=LayerwiseRegularizer(0.5)))
    assert_same(module, other)


class Loud(CollapseAlarm):
    """Stands at one level."""

    def hear(self, value: float) -> None:
        self.level = 0.5

    def restart(self) -> None:
        super().restart()
        self.level = 0.5


def test_silence_is_plain_adversarial_training() -> None:
    module, plain = foreign(), foreign()
    fit(module, ATLR(pgd(), mvl=MVL, alarm=CollapseAlarm(Seen()), gated=True))
    fit(plain, AdversarialTraining(pgd()))
    assert_same(module, plain, tolerance=0.0)


def test_a_gate_needs_an_alarm() -> None:
    with pytest.raises(ValueError, match="ATLR: expected alarm to be a CollapseAlarm, by whose level gamma is gated"):
        ATLR(pgd(), gated=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda alarm: ATLR(pgd(), mvl=MVL, alarm=alarm, gated=True),
        lambda alarm: ATLR(pgd(), mvl=MVL, alarm=alarm, unlabelled=Unlabelled(PartOfBatch(), only=True)),
        lambda alarm: AdversarialTraining(pgd(), alarm=alarm),
    ],
    ids=["gated", "unlabelled", "no penalty"],
)
def test_an_alarm_that_would_never_hear_anything_is_refused(make: Callable[[CollapseAlarm], pl.Callback]) -> None:
    with pytest.raises(MisconfigurationException, match=r"got SpreadLost\(\), which would never ring"):
        fit(foreign(), make(CollapseAlarm(SpreadLost())))
    fit(foreign(), ATLR(pgd(), mvl=MVL, alarm=CollapseAlarm(SpreadLost())), limit_train_batches=1)


def test_labels_that_are_no_classes_are_refused() -> None:
    attack = FGSM(0.1, loss_fn=lambda output, y: F.mse_loss(output, y, reduction="none").sum(1))
    with pytest.raises(MisconfigurationException, match="expected an attack on scores of classes"):
        fit(foreign(), AdversarialTraining(attack, alarm=CollapseAlarm()))


def test_a_checkpoint_holds_what_it_has_heard_and_every_fit_begins_afresh() -> None:
    alarm = CollapseAlarm(smoothing=1, patience=0, rise=0.5)
    levels(alarm, 0.0, 0.9, 0.1)
    callback = AdversarialTraining(pgd(), alarm=alarm)
    other = AdversarialTraining(pgd(), alarm=CollapseAlarm(smoothing=1, patience=0))
    other.load_state_dict(pickle.loads(pickle.dumps(callback.state_dict())))
    assert other.alarm is not None
    assert other.alarm.state_dict() == alarm.state_dict()
    assert other.alarm.level == 0.99
    other.start_afresh()
    assert (other.alarm.level, other.alarm.rang) == (0.0, 0)


@pytest.mark.parametrize("signal", [Overshot(), LossFell()])
def test_a_callback_that_saves_at_the_end_of_a_step_saves_what_was_heard(signal: Signal) -> None:
    alarm, heard = CollapseAlarm(signal), list[float]()

    class Saves(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            heard.append(alarm.state_dict()["_heard"])

    trainer([Saves(), AdversarialTraining(pgd(), alarm=alarm)]).fit(foreign(), loader())
    assert heard == [1, 2, 3]


def test_a_step_is_heard_once_and_before_it_is_saved() -> None:
    alarm = CollapseAlarm(Seen(0.3))
    alarm.see(StepSeen(Y, None, None, {}))
    assert alarm.state_dict()["_heard"] == 1
    alarm.settle()
    assert alarm.state_dict()["_heard"] == 1


def test_an_attack_that_watches_layers_finds_them_under_their_own_names() -> None:
    attack = AdaptiveAttack(0.1, steps=2, layers=list(MVL), bounds=None)
    alarm = CollapseAlarm()
    fit(foreign(), ATLR(attack, mvl=list(MVL), alarm=alarm, analysis_every_n_epochs=0))
    assert alarm.state_dict()["_heard"] > 0
