from __future__ import annotations

import math
import warnings

import pytest
import torch
from tests.helpers.training import fit, foreign, pgd
from torch import Tensor

from lsa_lightning import ATLR, LayerwiseRegularizer
from lsa_lightning.callbacks.collapse_guard import CollapseGuard

LABELS = torch.arange(40) % 4
CONSTANT = torch.ones(40, 5) + 1e-4 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
ALIVE = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))


def after_an_epoch() -> CollapseGuard:
    """One that has seen the layer vary."""
    guard = CollapseGuard()
    guard.update({"act1": ALIVE}, LABELS)
    guard.check(0.0)
    return guard


def checked(representation: Tensor, base_loss: float, y: Tensor = LABELS, epochs: int = 1) -> list[str]:
    guard = after_an_epoch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(epochs):
            guard.update({"act1": representation}, y)
            guard.check(base_loss)
    return [str(warning.message) for warning in caught]


def test_a_constant_layer_at_chance_is_named_once() -> None:
    (message,) = checked(CONSTANT, math.log(4), epochs=3)
    assert "act1 (spread 0.0001 of its norm)" in message
    assert "base loss 1.386 stands at chance (1.386)" in message


@pytest.mark.parametrize(
    ("representation", "base_loss", "y"),
    [
        (ALIVE, math.log(4), LABELS),
        (CONSTANT, 0.5 * math.log(4), LABELS),
        (CONSTANT, math.log(4), torch.rand(40)),
    ],
    ids=["layer varies", "loss below chance", "labels are no classes"],
)
def test_anything_else_is_quiet(representation: Tensor, base_loss: float, y: Tensor) -> None:
    assert checked(representation, base_loss, y) == []


def test_what_was_constant_before_it_was_regularized_is_not_the_penaltys_doing() -> None:
    guard, y = CollapseGuard(), torch.tensor([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            guard.update({"bn2": torch.ones(2, 3)}, y)
            guard.check(0.7)
    guard.update({"bn2": torch.eye(2)}, y)
    guard.check(0.7)
    guard.update({"bn2": torch.ones(2, 3)}, y)
    with pytest.warns(UserWarning, match="bn2"):
        guard.check(0.7)


def test_every_tenth_batch_is_measured() -> None:
    guard = after_an_epoch()
    guard.update({"act1": CONSTANT}, LABELS)
    for _ in range(9):
        guard.update({"act1": ALIVE}, LABELS)
    guard.update({"act1": CONSTANT}, LABELS)
    with pytest.warns(UserWarning, match=r"act1 \(spread 0.0001"):
        guard.check(math.log(4))


def test_an_epoch_without_the_penalty_is_quiet() -> None:
    CollapseGuard().check(1.0)


def test_atlr_says_that_its_penalty_killed_a_layer() -> None:
    module = foreign(lr=0.05)
    with pytest.warns(UserWarning, match=r"constant over the batch: net\.act"):
        fit(module, ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=100.0), mvl=["net.act"]), max_epochs=10)
