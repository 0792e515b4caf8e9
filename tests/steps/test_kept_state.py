"""Models and steps that keep something from pass to pass, and steps that cast types themselves."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, ModularConvNet, images, loader, trainer
from tests.helpers.training import assert_same, foreign
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import SumMetric

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import CatastrophicOverfittingStop
from lsa_lightning.objectives import TRADES


def at_lr(**options: Any) -> ATLR:
    attack, regularizer = FGSM(0.0, bounds=None), LayerwiseRegularizer(1.0)
    return ATLR(attack, regularizer=regularizer, mvl=["net.act"], analysis_every_n_epochs=0, **options)


class Momentum(ModularConvNet):
    """Updates a copy of a layer in its forward pass."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.key = nn.Linear(8, 3).requires_grad_(False)
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "always" or (self.when == "training" and self.training):
            for key, query in zip(self.key.parameters(), self.fc2.parameters(), strict=True):
                key.data.mul_(0.9).add_(0.1 * query.data)
        return super().forward(x)


class Contrasts(ForeignModule):
    def __init__(self, when: str, changes: bool) -> None:
        super().__init__()
        self.net = Momentum(when)
        self.changes = changes

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self((x - 0.5) / 0.25 if self.changes else x), y)


@pytest.mark.parametrize("changes", [False, True])
def test_a_model_that_moves_frozen_parameters_is_refused(changes: bool) -> None:
    words = r"changes parameters without gradients in its forward pass, \['net.key.weight', 'net.key.bias'\]"
    with pytest.raises(MisconfigurationException, match=words):
        trainer([AdversarialTraining(FGSM(0.1, bounds=None))]).fit(Contrasts("always", changes), loader())
    trainer([AdversarialTraining(FGSM(0.1, bounds=None))]).fit(Contrasts("training", changes), loader())
    with pytest.raises(MisconfigurationException, match=words):
        trainer([at_lr()]).fit(Contrasts("training", changes), loader())
    trainer([at_lr()]).fit(Contrasts("never", changes), loader())


class Remembers(ModularConvNet):
    """Adds something of the pass before."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_state: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        first = self.fc1(x.flatten(1)) + self.hidden_state
        self.hidden_state = 0.5 * first.detach().mean(0)
        return self.fc2(self.act(first))


class Recurrent(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Remembers()


class Domains(ForeignModule):
    """Has a batch norm for each of two domains, and does not switch back."""

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self.own = self.net.bn1
        self.other = nn.BatchNorm2d(4)
        nn.init.constant_(self.other.bias, 3.0)
        self.back = back

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        self.net.bn1 = self.own
        loss = F.cross_entropy(self(x), y)
        self.net.bn1 = self.other
        loss = loss - 0.1 * self(torch.rand_like(x)).softmax(1).square().mean()
        if self.back:
            self.net.bn1 = self.own
        return loss


def warnings_of(module: ForeignModule) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer([at_lr()], max_epochs=2).fit(module, loader())
    return [str(each.message) for each in caught if "answers otherwise" in str(each.message)]


@pytest.mark.parametrize("cls", [Recurrent, Domains])
def test_layers_that_answer_otherwise_after_the_step_are_said_once(cls: type[ForeignModule]) -> None:
    (said,) = warnings_of(foreign(cls))
    assert said.startswith(f"net.act of {cls.__name__} answers otherwise when it is given the input of training_step")


@pytest.mark.parametrize("module", [lambda: foreign(Domains, back=True), lambda: foreign(dropout=0.5)])
def test_those_that_answer_alike_are_not(module: Any) -> None:
    assert warnings_of(module()) == []


class Casts(ForeignModule):
    def __init__(self, changes: bool) -> None:
        super().__init__()
        self.changes = changes

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(self((x - 0.5) / 0.25 if self.changes else x), y)


@pytest.mark.parametrize("changes", [False, True])
def test_a_step_that_casts_types_has_both_passes_cast(changes: bool) -> None:
    run = trainer([at_lr()])
    run.fit(foreign(Casts, changes=changes), loader())
    assert float(run.callback_metrics["train/loss_lr"]) == 0


class Teaches(ForeignModule):
    """Moves a teacher at the beginning of each step, and asks it about a second view."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = ModularConvNet().requires_grad_(False)
        self.teacher.bn1.track_running_stats = False

    def training_step(self, batch: Any) -> Any:
        x, y, other = batch
        for own, student in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            own.data.mul_(0.5).add_(0.5 * student.data)
        asked = self.teacher(other).softmax(1)
        return F.cross_entropy(self((x - 0.5) / 0.25), y) - (asked * self(other).log_softmax(1)).sum(1).mean()


def test_a_teacher_moves_once_a_step() -> None:
    x, y = images(48)
    data = DataLoader(TensorDataset(x, y, x.flip(-1)), 16)
    watched, plain = foreign(Teaches), foreign(Teaches)
    nothing = FGSM(0.0, bounds=None)
    callbacks = [AdversarialTraining(nothing), CatastrophicOverfittingStop(nothing, drop=1.0)]
    trainer([*callbacks], max_epochs=2).fit(watched, data)
    trainer([], max_epochs=2).fit(plain, data)
    assert_same(watched, plain, tolerance=0.0)


class Widens(ModularConvNet):
    """Writes a buffer in its forward pass, and reads what it has written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.factor = self.factor + 0.5
        return super().forward(x) * self.factor


class Buffered(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Widens()


@pytest.mark.parametrize("objective", [None, TRADES()])
def test_what_buffers_keep_is_put_back_before_the_other_pass(objective: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer([AdversarialTraining(FGSM(0.1), objective)]).fit(foreign(Buffered), loader())
    assert not [each for each in caught if "answers otherwise" in str(each.message)]


def test_the_pass_that_looks_keeps_no_graph() -> None:
    graphs: list[bool] = []
    module = foreign()
    module.net.act.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()) if module.training else None)
    trainer([at_lr()]).fit(module, loader())
    assert graphs.count(True) == 2 * len(loader())


class KeepsFeatures(ModularConvNet):
    """Keeps its latest features, a temperature and a loss of its own, as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: Any = None
        self.temperature = 1.0
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x) / self.temperature
        self.latest = (logits, self.temperature)
        self.temperature *= 0.98
        self.losses.append(logits.square().mean())
        return logits


class OfTheStepBefore(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = KeepsFeatures()

    def training_step(self, batch: Any) -> Any:
        before = self.net.latest
        loss = F.cross_entropy(self(batch[0]), batch[1])
        loss = loss + 0.1 * self.net.losses[-1] * len(self.net.losses)
        self.net.losses.clear()
        return loss if before is None else loss + (self.net.latest[0] - before[0].detach()).square().mean()


class Recurs(ForeignModule):
    """Goes on with the hidden state of the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.hidden: Any = None

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.net(x.squeeze(1), self.hidden)
        self.hidden = tuple(each.detach() for each in hidden)
        return self.head(out[:, -1])


@pytest.mark.parametrize("callback", [lambda: AdversarialTraining(FGSM(0.0, bounds=None)), at_lr], ids=["at", "at_lr"])
def test_attributes_of_all_parts_are_those_of_the_step(callback: Any) -> None:
    attacked, plain = foreign(OfTheStepBefore), foreign(OfTheStepBefore)
    trainer([callback()], max_epochs=2).fit(attacked, loader())
    trainer([], max_epochs=2).fit(plain, loader())
    assert attacked.net.temperature == plain.net.temperature == pytest.approx(0.98**6)
    assert_same(attacked, plain)


def test_a_hidden_state_of_several_tensors_is_that_of_the_step() -> None:
    attacked, plain = foreign(Recurs), foreign(Recurs)
    trainer([AdversarialTraining(FGSM(0.0, bounds=None))], max_epochs=2).fit(attacked, loader())
    trainer([], max_epochs=2).fit(plain, loader())
    assert_same(attacked, plain, tolerance=0)


class Average:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0


class Collects(ForeignModule):
    """Counts the samples of steps, that go through the model in parts, in everything that may hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[int]] = {"train": [], "val": []}
        self.average = Average()
        self.metrics = {"count": SumMetric()}

    def count(self, batch: Any, stage: str) -> Tensor:
        net, (x, y) = self.net, batch
        self.outputs[stage].append(len(y))
        self.average.total, self.average.count = self.average.total + len(y), self.average.count + 1
        self.metrics["count"].update(len(y))
        x = net.relu2(net.conv2(net.relu1(net.bn1(net.conv1(x)))))
        return F.cross_entropy(net.fc2(net.act(net.fc1(x.flatten(1)))), y)

    def training_step(self, batch: Any) -> Any:
        return self.count(batch, "train")

    def validation_step(self, batch: Any) -> None:
        self.count(batch, "val")


def test_steps_in_parts_count_each_batch_once() -> None:
    module = foreign(Collects)
    callbacks = [at_lr(), RobustValidation({"fgsm": FGSM(0.0, bounds=None)})]
    trainer(callbacks).fit(module, loader(), loader(32))
    assert module.outputs == {"train": [16] * 3, "val": [16] * 2}
    assert (module.average.total, module.average.count) == (80, 5)
    assert module.metrics["count"].compute() == 80


class NoisyStudent(ForeignModule):
    """Its teacher sees x, and it itself what noise makes of the same tensor."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        with torch.no_grad():
            teacher = self(x).softmax(1)
        x += 0.3
        logits = self(x)
        return F.cross_entropy(logits, y) + F.mse_loss(logits.softmax(1), teacher)


class NoisyLater(ForeignModule):
    """Begins to write to x in a later batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        if batch_idx > 0:
            batch[0].mul_(0.5)
        return super().training_step(batch)


@pytest.mark.parametrize("cls", [NoisyStudent, NoisyLater])
@pytest.mark.parametrize("objective", [None, TRADES(beta=0.0)])
def test_a_tensor_that_was_written_to_is_another_input(objective: Any, cls: type[ForeignModule]) -> None:
    attacked, plain = foreign(cls), foreign(cls)
    options = {} if objective is None else {"objective": objective}
    trainer([AdversarialTraining(FGSM(0.0, bounds=None), **options)]).fit(attacked, loader())
    trainer([]).fit(plain, loader())
    for own, other in zip(attacked.parameters(), plain.parameters(), strict=True):  # TRADES moves buffers twice
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)


class Rebuilds(ForeignModule):
    """What it is given is the target too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(1), nn.Linear(64, 8), nn.Linear(8, 64))
        self.targets: list[Tensor] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x = batch[0].flatten(1)
        return x, x

    def training_step(self, batch: Any) -> Any:
        self.targets.append(batch[1])
        return F.mse_loss(self(batch[0]), batch[1])


class RebuildsNamed(Rebuilds):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x = batch[0].flatten(1)
        return {"label": x, "image": x}

    def training_step(self, batch: Any) -> Any:
        return super().training_step((batch["image"], batch["label"]))


class RebuildsInParts(Rebuilds):
    def training_step(self, batch: Any) -> Any:
        self.targets.append(batch[1])
        return F.mse_loss(self.net[2](self.net[1](batch[0])), batch[1])


@pytest.mark.parametrize("cls", [Rebuilds, RebuildsNamed, RebuildsInParts])
def test_an_input_that_is_the_target_too_is_attacked_and_the_target_is_not(cls: type[Rebuilds]) -> None:
    module, given = foreign(cls), []
    module.net[1].register_forward_pre_hook(lambda _, args: given.append(args[0]) if module.net.training else None)
    attack = FGSM(0.1, bounds=None, loss_fn=lambda out, y: (out - y).square().mean(1))
    trainer([AdversarialTraining(attack)]).fit(module, loader())
    x = images()[0].flatten(1)
    torch.testing.assert_close(torch.cat(module.targets), x, rtol=0, atol=0)
    moved = (given[-1] - x[-16:]).abs().amax(1)  # in the last step
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=0, atol=1e-6)


class Caches(ModularConvNet):
    """Keeps in eval mode what it has computed of its weights, until it trains again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Caches:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.exp() if self.training else self.cache.setdefault("scale", self.scale.exp().detach())
        return super().forward(x) * scale


def test_what_a_model_caches_in_eval_mode_is_gone_in_train_mode() -> None:
    model = Caches().train()
    FGSM(0.1)(model, *images(4))
    assert model.cache == {}
    model.eval()
    FGSM(0.1)(model, *images(4))
    assert model.cache
