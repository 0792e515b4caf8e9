"""A training step asks the device for nothing: on a GPU each question waits until all that was asked of it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import MVL, foreign
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lsa_lightning import ATLR, AdversarialTraining
from lsa_lightning.attacks import Attack, checks
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.callbacks import CollapseAlarm, LossFell, Overshot
from lsa_lightning.callbacks.alarm import Signal
from lsa_lightning.functional import representations
from lsa_lightning.objectives import AT, MART, TRADES, Objective
from lsa_lightning.utils.devices import Arriving

ASKING = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero", "aten::_unique2"}


class Shifted(Attack):
    """Asks for nothing itself."""

    def __init__(self) -> None:
        super().__init__(0.1)

    def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.05).clamp(0, 1)

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        raise NotImplementedError


class Questions(TorchDispatchMode):
    """Notes the operations whose result Python waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in ASKING:
            self.asked.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class FlipsInStep(ForeignModule):
    """Changes x before the model gets it, so that the examples are crafted inside of each step."""

    share = 1.0

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        logits, labels = self(x.flip(3)), y.long()
        return self.share * F.cross_entropy(logits, labels) + (1 - self.share) * F.cross_entropy(logits, labels.roll(1))

    def validation_step(self, batch: Any) -> None:
        return None


class MixesFirst(FlipsInStep):
    share = 0.5


class MixesLast(FlipsInStep):
    def training_step(self, batch: Any) -> Any:
        self.share = 1.0 if self.global_step < 5 else 0.5
        return super().training_step(batch)


def with_float_labels(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in rows]), torch.stack([y.float() for _, y in rows])


@pytest.fixture
def running_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU ran ahead, as a GPU does, and no number had arrived before it is waited for."""
    monkeypatch.setattr(checks, "runs_ahead", lambda device: True)
    monkeypatch.setattr(Arriving, "has_arrived", property(lambda self: False))


def asked_in_steps(
    callback: pl.Callback,
    monkeypatch: pytest.MonkeyPatch,
    cls: type[ForeignModule] = ForeignModule,
    collate: Any = None,
) -> list[list[str]]:
    """What each adversarial step of an epoch asks for."""
    steps: list[list[str]] = []
    step = AdversarialTraining._training_step

    def watched(self: AdversarialTraining, *args: Any, **kwargs: Any) -> Any:
        with Questions() as questions:
            result = step(self, *args, **kwargs)
        steps.append(questions.asked)
        return result

    monkeypatch.setattr(AdversarialTraining, "_training_step", watched)
    trainer([callback], max_epochs=2).fit(foreign(cls), loader(collate=collate), loader(seed=1))
    return steps


@pytest.mark.parametrize("objective", [AT(), TRADES(), MART()])
@pytest.mark.parametrize(
    "make",
    [
        AdversarialTraining,
        lambda attack, objective: ATLR(attack, objective, mvl=MVL, analysis_every_n_epochs=0),
    ],
)
def test_steps_after_the_first_ask_for_nothing(
    make: Callable[[Attack, Objective], pl.Callback], objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representations, "runs_ahead", lambda device: True)  # as on a GPU
    steps = asked_in_steps(make(Shifted(), objective), monkeypatch)
    assert steps[0]  # the loss of the first batch is looked at
    assert steps[1:] == [[]] * 5


class LooksFirst(Shifted):
    """Runs the model once, as a single-step attack does."""

    def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            model(x)
        return super().__call__(model, x, y)


@pytest.mark.parametrize("signal", [Overshot(), LossFell()])
@pytest.mark.parametrize("objective", [AT(), TRADES()])
def test_nor_do_steps_that_an_alarm_watches(
    objective: Objective, signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representations, "runs_ahead", lambda device: True)
    alarm = CollapseAlarm(signal)
    steps = asked_in_steps(AdversarialTraining(LooksFirst(), objective, alarm=alarm), monkeypatch)
    assert steps[1:] == [[]] * 5
    assert alarm.state_dict()["_heard"] == 6  # heard between the steps


@pytest.mark.usefixtures("running_ahead")
@pytest.mark.parametrize("collate", [None, with_float_labels])
def test_nor_do_steps_in_which_examples_are_crafted(collate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = asked_in_steps(AdversarialTraining(Shifted()), monkeypatch, FlipsInStep, collate)
    assert steps[0]
    assert steps[1:] == [[]] * 5


@pytest.mark.usefixtures("running_ahead")
def test_labels_that_are_mixed_in_the_last_step_are_noticed_at_the_end() -> None:
    with pytest.raises(MisconfigurationException, match="mixup"):
        trainer([AdversarialTraining(Shifted())], max_epochs=2).fit(foreign(MixesLast), loader())


@pytest.mark.usefixtures("running_ahead")
def test_labels_that_are_no_classes_are_not_looked_at() -> None:
    def softened(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = with_float_labels(rows)
        return x, y + 0.25

    trainer([AdversarialTraining(Shifted())], max_epochs=1).fit(foreign(MixesFirst), loader(collate=softened))
