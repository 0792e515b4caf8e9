"""The two passes of a step run compiled where they can, and train to the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.reference_loop import at_lr_loop
from tests.helpers.training import assert_same, foreign
from torch.utils.checkpoint import checkpoint

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks.alarm import CollapseAlarm
from lsa_lightning.jobs.acceleration import accelerate
from lsa_lightning.layers.compiled import CompiledProbe
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.objectives import TRADES

pytestmark = pytest.mark.usefixtures("float64")

LAYERS = ["net.bn1", "net.relu1", "net.act"]


class Skips(ForeignModule):
    """Leaves every second batch out, after the model has run."""

    batches = 0

    def training_step(self, batch: Any) -> Any:
        self.batches += 1
        loss = super().training_step(batch)
        return loss if self.batches % 2 else None


class Checkpointed(ForeignModule):
    reentrant = False

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(checkpoint(self, x, use_reentrant=self.reentrant), y)


class CheckpointedReentrantly(Checkpointed):
    reentrant = True


class InvertsInStep(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(1 - x), y)


class InvertsLater(ForeignModule):
    """From the third step on, which the compiled passes run."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(1 - x if self.global_step >= 2 else x), y)


class CallsItsNet(ForeignModule):
    """After the first step it calls the network past itself."""

    batches = 0

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        self.batches += 1
        return F.cross_entropy(self(x) if self.batches <= 1 else self.net(x), y)


class NetInvertsLater(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(1 - x if self.global_step >= 2 else x), y)


class DrawsLater(ForeignModule):
    """Its dropout begins with the fourth step."""

    batches = 0

    def training_step(self, batch: Any) -> Any:
        self.batches += 1
        self.net.dropout.p = 0.5 if self.batches > 3 else 0.0
        return super().training_step(batch)


class AlwaysCallsItsNet(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(x), y)


REPEATED = 1
"""The first pass with a penalty is run once more, to see whether the model answers alike."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many passes ran in the one and in the other way."""
    counts = {"written": 0, "compiled": 0}

    def counted(cls: type, method: str, way: str) -> None:
        original = getattr(cls, method)

        def count(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[way] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, method, count)

    counted(LayerProbe, "__enter__", "written")
    counted(CompiledProbe, "_through", "compiled")
    return counts


def fitted(
    cls: type[ForeignModule] = ForeignModule,
    *,
    backend: str | None,
    layers: list[str] | None = LAYERS,
    dropout: float = 0.0,
    options: dict[str, Any] | None = None,
    **of_trainer: Any,
) -> ForeignModule:
    """Trained for two epochs of three batches, the last of which is smaller."""
    module = foreign(cls, dropout=dropout)
    if backend is not None:
        accelerate(module, compiled={"backend": backend})
    own: dict[str, Any] = {"top_k": 2} if layers is None else {"mvl": layers, "analysis_every_n_epochs": 0}
    callback = ATLR(FGSM(0.1), regularizer=LayerwiseRegularizer(gamma=0.5), **own, **(options or {}))
    torch.manual_seed(1)
    trainer([callback], max_epochs=2, **of_trainer).fit(module, loader(40), loader(16, seed=1))
    return module


@pytest.mark.parametrize(
    ("cls", "backend", "counts"),
    [
        (ForeignModule, "aot_eager", (2 + REPEATED, 10)),
        (Skips, "eager", (2 + REPEATED, 7)),
    ],
)
def test_it_trains_the_same_weights(
    cls: type[ForeignModule], backend: str, counts: tuple[int, int], passes: dict[str, int]
) -> None:
    module = fitted(cls, backend=backend)
    assert (passes["written"], passes["compiled"]) == counts
    assert module._compiled_call_impl is not None
    assert not any(part._forward_hooks for part in module.modules())
    assert_same(module, fitted(cls, backend=None))
    assert passes["compiled"] == counts[1]


def test_a_list_that_changes_trains_the_same_weights(passes: dict[str, int]) -> None:
    module = fitted(backend="eager", layers=None)
    assert passes["compiled"] >= 4
    assert_same(module, fitted(backend=None, layers=None))


def test_mixed_precision_is_that_of_the_step(passes: dict[str, int]) -> None:
    module = fitted(backend="aot_eager", precision="bf16-mixed")
    assert passes["compiled"] == 10
    assert_same(module, fitted(backend=None, precision="bf16-mixed"))


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ForeignModule, {"dropout": 0.5}),
        (ForeignModule, {"options": {"objective": TRADES(beta=2.0)}}),
        (ForeignModule, {"options": {"alarm": CollapseAlarm()}}),
        (InvertsInStep, {}),
        (AlwaysCallsItsNet, {}),
        (Checkpointed, {}),
        (CheckpointedReentrantly, {}),
    ],
    ids=["draws", "both outputs", "alarm", "inverts", "submodule", "checkpointed", "reentrantly"],
)
def test_what_forbids_it_trains_the_same_weights(
    cls: type[ForeignModule], options: dict[str, Any], passes: dict[str, int]
) -> None:
    module = fitted(cls, backend="eager", **options)
    assert passes == {"written": 12 + REPEATED, "compiled": 0}
    assert_same(module, fitted(cls, backend=None, **options))


def test_random_numbers_that_begin_later_forbid_it_from_then_on(passes: dict[str, int]) -> None:
    fitted(DrawsLater, backend="eager")
    assert passes == {"written": 2 + 2 * 2 + REPEATED, "compiled": 2 * 3}


def test_a_step_that_begins_to_change_x_is_seen_in_compiled_passes(passes: dict[str, int]) -> None:
    module = fitted(InvertsLater, backend="eager")
    assert passes["compiled"] > 0
    assert_same(module, fitted(InvertsLater, backend=None))


def test_a_step_that_begins_to_change_x_is_seen_without_a_penalty_too() -> None:
    runs = []
    for backend in ("eager", None):
        module = foreign(InvertsLater)
        if backend is not None:
            accelerate(module, compiled={"backend": backend})
        trainer([AdversarialTraining(FGSM(0.1))]).fit(module, loader(40))
        runs.append(module)
    assert_same(*runs)
    attacked = foreign()
    batches = [(1 - x if number >= 2 else x, y) for number, (x, y) in enumerate(loader(40))]
    at_lr_loop(attacked, batches, FGSM(0.1), attacked.configure_optimizers(), None, {})
    assert_same(runs[0], attacked)


@pytest.mark.parametrize("what", ["wrapped", "in place", "forward"])
def test_a_compiled_backbone_that_is_given_another_x_is_seen_too(what: str) -> None:
    module, expected = foreign(NetInvertsLater), foreign()
    if what == "wrapped":
        module.net = torch.compile(module.net, backend="eager")
    elif what == "in place":
        module.net.compile(backend="eager")
    else:
        module.net.forward = torch.compile(module.net.forward, backend="eager")
    trainer([AdversarialTraining(FGSM(0.1), backbone="net")]).fit(module, loader(40))
    batches = [(1 - x if number >= 2 else x, y) for number, (x, y) in enumerate(loader(40))]
    at_lr_loop(expected, batches, FGSM(0.1), expected.configure_optimizers(), None, {})
    assert_same(getattr(module.net, "_orig_mod", module.net), expected.net)


def test_a_step_that_no_longer_calls_the_model_is_told() -> None:
    with pytest.raises(MisconfigurationException, match="to call CallsItsNet in each step"):
        fitted(CallsItsNet, backend="eager")
