"""A training step asks the device for nothing: on a GPU each question waits until all that was asked of it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
from tests.helpers.modules import loader, trainer
from tests.helpers.training import MVL, foreign
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lsa_lightning import ATLR, AdversarialTraining
from lsa_lightning.attacks import Attack
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.objectives import AT, MART, TRADES, Objective

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


def asked_in_steps(callback: pl.Callback, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each adversarial step of an epoch asks for."""
    steps: list[list[str]] = []
    step = AdversarialTraining._training_step

    def watched(self: AdversarialTraining, *args: Any, **kwargs: Any) -> Any:
        with Questions() as questions:
            result = step(self, *args, **kwargs)
        steps.append(questions.asked)
        return result

    monkeypatch.setattr(AdversarialTraining, "_training_step", watched)
    trainer([callback], max_epochs=2).fit(foreign(), loader(), loader(seed=1))
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
    steps = asked_in_steps(make(Shifted(), objective), monkeypatch)
    assert steps[0]  # the loss of the first batch is looked at
    assert steps[1:] == [[]] * 5
