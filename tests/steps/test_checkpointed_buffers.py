"""Checkpoints run modules once more in the backward pass: buffers then move for the step's own pass alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import assert_same, foreign
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import AdversarialWeightPerturbation
from lsa_lightning.unlabelled import PartOfBatch, Unlabelled
from lsa_lightning.utils import isolation
from lsa_lightning.utils.isolation import scratch_buffers

WAYS = [{"use_reentrant": False}, {"use_reentrant": True}, {"use_reentrant": False, "early_stop": False}]


class Checkpointed(ForeignModule):
    """Its first block, with the batch norm, is run once more in the backward pass."""

    def __init__(self, way: dict[str, Any]) -> None:
        super().__init__(lr=0.0)  # the statistics of both trainings are then those of the same weights
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        hidden: Any = checkpoint(self.first, x, **self.way)
        return self.net.fc2(self.net.act(self.net.fc1(self.net.conv2(hidden).flatten(1))))

    def first(self, x: Tensor) -> Tensor:
        return self.net.relu1(self.net.bn1(self.net.conv1(x)))


class Nested(Checkpointed):
    """With a checkpoint inside the other."""

    def first(self, x: Tensor) -> Tensor:
        hidden: Any = checkpoint(self.normalised, x, **self.way)
        return self.net.relu1(hidden)

    def normalised(self, x: Tensor) -> Tensor:
        return self.net.bn1(self.net.conv1(x))


class LosesABuffer(Checkpointed):
    """In its first pass in training."""

    def __init__(self, way: dict[str, Any]) -> None:
        super().__init__(way)
        self.net.register_buffer("placeholder", torch.zeros(1))

    def first(self, x: Tensor) -> Tensor:
        if self.training and hasattr(self.net, "placeholder"):
            del self.net.placeholder
        return super().first(x)


class GetsABuffer(Checkpointed):
    """In its first pass in training, and counts in it."""

    def first(self, x: Tensor) -> Tensor:
        if self.training and not hasattr(self.net, "passes"):
            self.net.register_buffer("passes", torch.zeros(()))
        if self.training:
            self.net.passes += 1
        return super().first(x)


def trained(module: ForeignModule, gamma: float, layer: str = "net.act", **options: Any) -> ForeignModule:
    torch.manual_seed(1)
    regularizer = LayerwiseRegularizer(gamma)
    callback = ATLR(FGSM(0.1), regularizer=regularizer, mvl=[layer], analysis_every_n_epochs=0, **options)
    trainer([callback]).fit(module, loader())
    return module


@pytest.mark.parametrize("layer", ["net.act", "net.relu1"])
@pytest.mark.parametrize("cls", [Checkpointed, Nested, LosesABuffer, GetsABuffer])
@pytest.mark.parametrize("way", WAYS)
def test_the_pass_of_the_penalty_moves_no_buffer_in_the_backward_pass_either(
    way: dict[str, Any], cls: type[Checkpointed], layer: str
) -> None:
    with_penalty, without = (trained(foreign(cls, way=way), gamma, layer) for gamma in (0.5, 0.0))
    assert_same(with_penalty, without)
    if cls is Checkpointed:  # two of each of three steps, as without a callback
        assert with_penalty.net.bn1.num_batches_tracked == 6


def test_nor_do_the_passes_of_the_penalty_on_other_inputs() -> None:
    both = trained(foreign(Checkpointed, way=WAYS[0]), 0.5, unlabelled=Unlabelled(PartOfBatch()))
    assert_same(both, trained(foreign(Checkpointed, way=WAYS[0]), 0.0))


@pytest.mark.parametrize("way", WAYS)
def test_nor_does_the_pass_that_looks_for_the_worst_weights(way: dict[str, Any]) -> None:
    module = foreign(Checkpointed, way=way)
    trainer([AdversarialTraining(FGSM(0.1)), AdversarialWeightPerturbation(0.01)]).fit(module, loader())
    assert module.net.bn1.num_batches_tracked == 6


def test_each_backward_pass_over_one_graph_leaves_the_buffers() -> None:
    module = foreign(Checkpointed, way=WAYS[0])
    with scratch_buffers(module, backward=True):
        loss = module(images(4)[0]).sum()
    for _ in range(2):
        loss.backward(retain_graph=True)
    assert module.net.bn1.num_batches_tracked == 0


def test_buffers_are_exchanged_once_for_all_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged: list[None] = []
    being = isolation._buffers_being
    monkeypatch.setattr(isolation, "_buffers_being", lambda buffers: exchanged.append(None) or being(buffers))
    module = foreign(ForeignModule)
    with scratch_buffers(module, backward=True), save_on_cpu():
        loss = module(images(4)[0]).sum()
    loss.backward()
    assert len(exchanged) == 2  # once for the pass, once for all that its backward pass asks for


def test_hooks_that_are_used_again_give_back_what_they_keep_as_they_did() -> None:
    module, hooks = foreign(ForeignModule), save_on_cpu()
    unpack = hooks.unpack_hook
    for _ in range(2):
        with scratch_buffers(module, backward=True), hooks:
            loss = module(images(4)[0]).sum()
        loss.backward()
    assert hooks.unpack_hook is unpack
    assert module.net.bn1.num_batches_tracked == 0
