"""Penalised layers whose outputs are overwritten later in the same pass, against twins that overwrite nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.helpers.modules import ForeignModule, ModularConvNet, loader, trainer
from tests.helpers.training import assert_same, foreign
from torch import Tensor, nn

from lsa_lightning import ATLR, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM
from lsa_lightning.layers.copies import KeptOfPass
from lsa_lightning.objectives import TRADES


class Net(ModularConvNet):
    """Something happens to what ``bn1`` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.then(self.bn1(self.conv1(x)), x)
        return self.fc2(self.act(self.fc1(self.relu2(self.conv2(hidden)).flatten(1))))

    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return hidden


class Adds(Net):
    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        hidden += self.shortcut(x)
        return hidden


class AddsElsewhere(Net):
    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return hidden + self.shortcut(x)


class AddsByChance(Adds):
    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return super().then(hidden, x) if torch.randint(5, ()) < 2 else hidden


class AddsElsewhereByChance(AddsElsewhere):
    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return super().then(hidden, x) if torch.randint(5, ()) < 2 else hidden


class Halves(Net):
    """Without autograd's knowledge."""

    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        hidden.data.mul_(0.5)
        return hidden


class HalvesElsewhere(Net):
    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return hidden + (0.5 * hidden - hidden).detach()


class Copied(Net):
    """What is penalised is a copy of the hidden layer, in memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = Written()

    def then(self, hidden: Tensor, x: Tensor) -> Tensor:
        return self.shortcut(x)


class CopiedToOneMemory(Copied):
    """In the same memory in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = Written(once=True)


class Written(nn.Module):
    """Its input, written to other memory, behind autograd's back."""

    def __init__(self, *, once: bool = False) -> None:
        super().__init__()
        self.once, self.memory = once, torch.zeros(16, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if not self.once:
            self.memory = torch.zeros_like(self.memory)
        written: Tensor = Through.apply(x, self.memory)
        return written


class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, memory: Tensor) -> Tensor:
        memory.data.copy_(x)
        return memory.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class WithNet(ForeignModule):
    def __init__(self, net: type[Net]) -> None:
        super().__init__()
        self.net = net()


class ScalesItsLogits(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        logits = self(x)
        logits /= 2
        return F.cross_entropy(logits, y)


class ScalesElsewhere(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x) / 2, y)


def trained(module: ForeignModule, objective: TRADES | None = None) -> ForeignModule:
    torch.manual_seed(1)
    options: dict[str, Any] = {"regularizer": LayerwiseRegularizer(0.5), "analysis_every_n_epochs": 0}
    callback = ATLR(FGSM(0.1), objective, mvl=["net.bn1", "net.act"], **options)
    trainer([callback], max_epochs=3).fit(module, loader())
    return module


@pytest.mark.parametrize(
    ("overwrites", "twin"),
    [
        (Adds, AddsElsewhere),
        (AddsByChance, AddsElsewhereByChance),
        (Halves, HalvesElsewhere),
        (CopiedToOneMemory, Copied),
    ],
)
@pytest.mark.usefixtures("float64")
def test_the_penalty_is_on_what_the_layer_returned(overwrites: type[Net], twin: type[Net]) -> None:
    assert_same(trained(foreign(WithNet, net=overwrites)), trained(foreign(WithNet, net=twin)))


@pytest.mark.usefixtures("float64")
def test_blocks_left_out_by_chance_have_been_lost_and_run_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[list[str]] = []
    overwritten = KeptOfPass.overwritten

    def note(kept: KeptOfPass) -> list[str]:
        lost.append(overwritten(kept))
        return lost[-1]

    monkeypatch.setattr(KeptOfPass, "overwritten", note)
    trained(foreign(WithNet, net=AddsByChance))
    assert lost.count(["net.bn1"]) == 2  # once in each of the two passes of a step


@pytest.mark.usefixtures("float64")
def test_the_objective_is_of_the_logits_that_the_model_returned() -> None:
    one, other = (trained(foreign(cls), TRADES(beta=2.0)) for cls in (ScalesItsLogits, ScalesElsewhere))
    assert_same(one, other)
