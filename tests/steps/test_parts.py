"""Steps that call parts of the model, and never the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import assert_same, foreign
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import CollapseAlarm

EPS = 0.1


def fgsm(eps: float = EPS) -> FGSM:
    return FGSM(eps, bounds=None)


def at_lr(eps: float = EPS) -> ATLR:
    return ATLR(fgsm(eps), regularizer=LayerwiseRegularizer(0.5), mvl=["net.act"], analysis_every_n_epochs=0)


class Parts(ForeignModule):
    """Its step goes through the model part by part, as its forward does."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.noisy = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.net.fc2(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.dropout(net.relu2(net.conv2(net.relu1(net.bn1(net.conv1(self.noisy(x)))))))
        return net.act(net.fc1(x.flatten(1)))

    def training_step(self, batch: Any) -> Any:
        return F.cross_entropy(self.net.fc2(self.features(batch[0])), batch[1])


class MovesInside(Parts):
    """The first layer is given no view of x."""

    def features(self, x: Tensor) -> Tensor:
        return super().features((x - 0.5) / 0.25)


class MovesInPlace(Parts):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.sub_(0.5))


class AddsNoise(Parts):
    """Draws before any part is called."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x + 0.1 * torch.randn_like(x))


class CountsFirst(Parts):
    """What comes before the first layer has buffers of its own."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.counts = nn.BatchNorm2d(1, affine=False)
        self.passes = 0

    def features(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().features(self.counts(x))


class Scales(Parts):
    """Holds a parameter itself."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * self.scale


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(1, 1, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x) * self.gamma


class GoesIntoBlock(Parts):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.net.fc2(super().features(self.block(x)))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x + self.block.inside(x) * self.block.gamma)


class FrozenStem(Parts):
    """Its step runs frozen layers without gradients, which the attack must go through."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.net.conv1.requires_grad_(False)
        self.net.bn1.requires_grad_(False)

    def training_step(self, batch: Any) -> Any:
        net, (x, y) = self.net, batch
        with torch.no_grad():
            x = net.relu1(net.bn1(net.conv1(self.noisy(x))))
        x = net.dropout(net.relu2(net.conv2(x)))
        return F.cross_entropy(net.fc2(net.act(net.fc1(x.flatten(1)))), y)


class OtherStemFirst(Parts):
    """Its step begins with the branch that comes second in forward, whose layer is penalised too."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.other = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        first = self.features(x)
        return self.net.fc2(first + self.other(x).mean(1, keepdim=True))

    def training_step(self, batch: Any) -> Any:
        other = self.other(batch[0]).mean(1, keepdim=True)
        return F.cross_entropy(self.net.fc2(self.features(batch[0]) + other), batch[1])


class HeadTwice(Parts):
    """Asks its head once more, for something that is no loss."""

    def training_step(self, batch: Any) -> Any:
        features = self.features(batch[0])
        loss = F.cross_entropy(self.net.fc2(features), batch[1])
        self.log("correct", (self.net.fc2(features).argmax(1) == batch[1]).float().mean())
        return loss


PARTS = (
    Parts,
    MovesInside,
    MovesInPlace,
    AddsNoise,
    CountsFirst,
    Scales,
    GoesIntoBlock,
    FrozenStem,
    OtherStemFirst,
    HeadTwice,
)


def whole(cls: type[Parts]) -> type[Parts]:
    """The same, with a step that calls the model."""

    class Whole(cls):  # type: ignore[valid-type, misc]
        def training_step(self, batch: Any) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Whole


def all_layers() -> ATLR:
    layers = ["net.relu2", "net.act"]
    return ATLR(fgsm(), regularizer=LayerwiseRegularizer(0.5), mvl=layers, analysis_every_n_epochs=0)


@pytest.mark.parametrize("callback", [all_layers, lambda: AdversarialTraining(fgsm())], ids=["at_lr", "at"])
@pytest.mark.parametrize("cls", PARTS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_it_trains_as_a_step_that_calls_the_model(callback: Any, cls: type[Parts], dropout: float) -> None:
    modules = [foreign(cls, dropout=dropout), foreign(whole(cls), dropout=dropout)]
    for module in modules:
        torch.manual_seed(1)
        trainer([callback()], max_epochs=2).fit(module, loader())
    assert_same(*modules)
    assert getattr(modules[0], "passes", 6) == 6


@pytest.mark.parametrize("layers", [["other.2"], ["net.act", "other.2"]])
def test_layers_that_a_step_calls_before_the_first_one_are_penalised(layers: list[str]) -> None:
    losses = []
    for cls in (OtherStemFirst, whole(OtherStemFirst)):
        callback = ATLR(fgsm(), regularizer=LayerwiseRegularizer(0.5), mvl=layers, analysis_every_n_epochs=0)
        run = trainer([callback])
        run.fit(foreign(cls), loader())
        losses.append(float(run.callback_metrics["train/loss_lr"]))
    assert losses[0] > 0
    assert losses[0] == pytest.approx(losses[1])


class UnlabelledFirst(Parts):
    """A term on inputs without labels, computed first, from the second epoch on: ``how`` makes them of the batch."""

    def others(self, batch: Any) -> Tensor:
        return batch[2]

    def training_step(self, batch: Any) -> Any:
        return F.cross_entropy(self.net.fc2(self.features(batch[0])), batch[1])

    def extra(self, batch: Any) -> Tensor:
        return 0.1 * self.net.fc2(self.features(self.others(batch))).square().mean()


class ExtraFirst(UnlabelledFirst):
    def training_step(self, batch: Any) -> Any:
        extra = self.extra(batch) if self.current_epoch else 0.0
        return extra + super().training_step(batch)


class ViewFirst(ExtraFirst):
    def others(self, batch: Any) -> Tensor:
        return batch[0].flip(-1)


class ChangedFirst(ExtraFirst):
    def others(self, batch: Any) -> Tensor:
        return 1 - batch[2]


class MoreFirst(ExtraFirst):
    def others(self, batch: Any) -> Tensor:
        return torch.cat([batch[2], batch[2].flip(-1)])


class Grows(nn.Module):
    """Reads a buffer that it has just written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.factor = self.factor + 0.5
        return x.relu() * self.factor


class GrowsFirst(ExtraFirst):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.net.act = Grows()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("cls", [ExtraFirst, ViewFirst, ChangedFirst, MoreFirst, GrowsFirst])
def test_the_penalty_is_that_of_x_whatever_comes_first(cls: type[ExtraFirst], dropout: float) -> None:
    (x, y), (u, _) = images(), images(seed=2)
    batches = DataLoader(TensorDataset(x, y, u), 16)
    run = trainer([at_lr(eps=0.0)], max_epochs=2)
    run.fit(foreign(cls, dropout=dropout), batches)
    assert float(run.callback_metrics["train/loss_lr"]) == 0


class BeginsToScale(Parts):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return super().training_step((batch[0] * (0.5 if batch_idx > 1 else 1), batch[1]))


class BeginsToWrite(Parts):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        if batch_idx > 1:
            batch[0].mul_(0.5)
        return super().training_step(batch)


@pytest.mark.parametrize("cls", [BeginsToScale, BeginsToWrite])
@pytest.mark.parametrize("callback", [at_lr, lambda: AdversarialTraining(fgsm())], ids=["at_lr", "at"])
def test_a_step_that_begins_to_change_x_is_refused_where_it_does(callback: Any, cls: type[Parts]) -> None:
    module = foreign(cls)
    with pytest.raises(MisconfigurationException, match="changes x before the first layer of Begins"):
        trainer([callback()]).fit(module, loader())
    assert module.global_step == 2


class Features(Parts):
    """Forward gives an embedding; the head is the step's."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.net.fc1 = nn.Linear(self.net.fc1.in_features, 64)
        self.net.fc2 = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class FeaturesOfForward(Features):
    def training_step(self, batch: Any) -> Any:
        return F.cross_entropy(self.net.fc2(self.forward(batch[0])), batch[1])


class OtherLabels(Parts):
    def training_step(self, batch: Any) -> Any:
        return super().training_step((batch[0], (batch[1] + 1) % 3))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("cls", [Features, FeaturesOfForward, OtherLabels])
def test_what_is_no_logits_is_refused(cls: type[Parts], dropout: float) -> None:
    with pytest.raises(MisconfigurationException, match="pulls the samples to other classes than the labels"):
        trainer([AdversarialTraining(fgsm())]).fit(foreign(cls, dropout=dropout), loader())


class Validates(Parts):
    def validation_step(self, batch: Any) -> None:
        self.net.fc2(self.features(batch[0]))


def test_validation_in_parts_is_measured() -> None:
    run = trainer([RobustValidation({"fgsm": fgsm()})])
    run.validate(foreign(Validates), loader(), verbose=False)
    model = foreign(Validates).eval()
    x, y = images()
    assert float(run.callback_metrics["val/acc_clean"]) == float((model(x).argmax(1) == y).float().mean())


def test_an_alarm_sees_as_little_as_before() -> None:
    callback = AdversarialTraining(fgsm(), alarm=CollapseAlarm())
    trainer([callback]).fit(foreign(Parts), loader())
