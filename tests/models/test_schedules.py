from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from tests.helpers.modules import ModularConvNet, loader, trainer
from torch.optim.lr_scheduler import CyclicLR, MultiStepLR, OneCycleLR

from lsa_lightning import RobustClassifier
from lsa_lightning.models import PerStep


class Rates(LearningRateMonitor):
    """Remembers the learning rate of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        """Needs no logger."""

    def on_train_epoch_start(self, *args: Any, **kwargs: Any) -> None:
        """Needs no logger."""

    def on_train_batch_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(scheduler: Any, **kwargs: Any) -> list[float]:
    """The learning rates of two epochs of six batches."""
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
    module = RobustClassifier(ModularConvNet(), optimizer=sgd, scheduler=scheduler)
    recorded = Rates()
    trainer([recorded], max_epochs=2, **kwargs).fit(module, loader(batch_size=8))
    return recorded.seen


def by_hand(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_one_cycle_spans_the_whole_run() -> None:
    expected = by_hand(partial(OneCycleLR, max_lr=0.1, total_steps=12), 12)
    assert rates(PerStep(partial(OneCycleLR, max_lr=0.1))) == pytest.approx(expected)


def test_a_triangle_rises_in_the_first_half() -> None:
    found = rates(PerStep(partial(CyclicLR, base_lr=0.0, max_lr=0.6), length="step_size_up", share=0.5))
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_steps_are_counted_by_the_trainer() -> None:
    found = rates(PerStep(partial(OneCycleLR, max_lr=0.1)), accumulate_grad_batches=2)
    assert found[::2] == pytest.approx(by_hand(partial(OneCycleLR, max_lr=0.1, total_steps=6), 6))


def test_other_schedulers_are_stepped_once_an_epoch() -> None:
    assert rates(partial(MultiStepLR, milestones=[1])) == pytest.approx([0.1] * 6 + [0.01] * 6)


def test_one_step_is_a_run_too() -> None:
    cyclic = PerStep(partial(CyclicLR, base_lr=0.0, max_lr=1.0), length="step_size_up", share=0.5)
    assert len(rates(cyclic, fast_dev_run=True)) == 1


def test_a_run_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a training run with an end, max_epochs or max_steps, got one"):
        PerStep(partial(OneCycleLR, max_lr=0.1))(torch.optim.SGD([torch.zeros(1)], lr=0.1), float("inf"))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_share_outside_its_range(share: float) -> None:
    with pytest.raises(ValueError, match=rf"expected share to be a finite number in \(0, 1\], got {share}"):
        PerStep(OneCycleLR, share=share)
