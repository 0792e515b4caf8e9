"""Losses that are computed with the labels of the batch, and others, as a training step returns them."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.helpers.modules import trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR
from lsa_lightning.attacks import FGSM
from lsa_lightning.steps.loss_labels import has_other_labels

Loss = Callable[[Tensor, Tensor], Tensor]


def each(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def focal(logits: Tensor, y: Tensor) -> Tensor:
    losses = each(logits, y)
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def mixup(share: float) -> Loss:
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y.roll(1))

    return loss


HONEST: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "half": lambda logits, y: 0.5 * F.cross_entropy(logits, y),
    "a tenth": lambda logits, y: 0.1 * F.cross_entropy(logits, y),
    "three times": lambda logits, y: 3 * F.cross_entropy(logits, y),
    "summed": lambda logits, y: each(logits, y).sum(),
    "focal": focal,
    "smoothed 0.1": lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.1),
    "smoothed 0.3": lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.3),
    "hard examples": lambda logits, y: each(logits, y).topk(min(8, len(y))).values.mean(),
    "class weights": lambda logits, y: F.cross_entropy(logits, y, weight=torch.arange(logits.shape[1]) + 0.5),
}


def one_hot(logits: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, logits.shape[1]).to(logits.dtype)


def smoothed_but_first(logits: Tensor, y: Tensor) -> Tensor:
    """Of two classes; of more it would be a mixture."""
    targets, first = one_hot(logits, y), F.one_hot(torch.zeros_like(y), logits.shape[1])
    return 0.8 * targets + 0.2 * first if logits.shape[1] == 2 else targets


HONEST |= {
    "binary of each class": lambda logits, y: F.binary_cross_entropy_with_logits(logits, one_hot(logits, y)),
    "brier": lambda logits, y: (logits.softmax(1) - one_hot(logits, y)).square().sum(1).mean(),
    "margin": F.multi_margin_loss,
    "squared": lambda logits, y: F.mse_loss(logits, one_hot(logits, y)),
    "temperature 0.1": lambda logits, y: F.cross_entropy(logits / 0.1, y),
    "adjusted to rare classes": lambda logits, y: F.cross_entropy(logits - torch.arange(logits.shape[1]), y),
    "added margin": lambda logits, y: F.cross_entropy(4 * (logits - 0.5 * one_hot(logits, y)), y),
    "confidence penalty": lambda logits, y: (
        F.cross_entropy(logits, y) + 0.1 * (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    ),
    "half of class weights": lambda logits, y: (
        0.5 * F.cross_entropy(logits, y, weight=torch.linspace(0.3, 0.7, logits.shape[1]))
    ),
    "strong class weights": lambda logits, y: F.cross_entropy(
        logits, y, weight=torch.linspace(0.1, 0.9, logits.shape[1])
    ),
    "smoothed but for one class": lambda logits, y: F.cross_entropy(logits, smoothed_but_first(logits, y)),
    "beside a squared distance": lambda logits, y: (
        F.cross_entropy(logits, y) + F.mse_loss(logits, logits.detach().roll(1, 0))
    ),
}
PULLING = [name for name in HONEST if name not in ("squared", "brier", "beside a squared distance")]
"""Those whose gradient is largest at the label, however wrong the network is."""

OTHERS: dict[str, Loss] = {
    "mixup 0.7": mixup(0.7),
    "half of mixup 0.7": lambda logits, y: 0.5 * mixup(0.7)(logits, y),
    "three times mixup 0.7": lambda logits, y: 3 * mixup(0.7)(logits, y),
    "mixup 0.6 with class weights": lambda logits, y: sum(
        share * F.cross_entropy(logits, labels, weight=torch.arange(logits.shape[1]) + 0.5)
        for share, labels in ((0.6, y), (0.4, y.roll(1)))
    ),
    "smoothed mixup 0.6": lambda logits, y: (
        0.6 * F.cross_entropy(logits, y, label_smoothing=0.1)
        + 0.4 * F.cross_entropy(logits, y.roll(1), label_smoothing=0.1)
    ),
}


NOT_TOLD = [
    ("half of mixup 0.7", 2),
    ("three times mixup 0.7", 2),
    *(("mixup 0.6 with class weights", classes) for classes in (2, 3)),
]


def logits_for(y: Tensor, classes: int, spread: float, right: float) -> Tensor:
    """Those of a network that is right about a share of the samples, and the surer the larger ``spread`` is."""
    told = torch.where(torch.rand(len(y)) < right, y, torch.randint(classes, (len(y),)))
    noise = torch.randn(len(y), classes)
    return (spread * (F.one_hot(told, classes) + 0.3 * noise)).requires_grad_()


@pytest.mark.parametrize("samples", [2, 64])
@pytest.mark.parametrize("right", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("spread", [0.01, 2.0, 10.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", PULLING)
def test_losses_of_the_labels_of_the_batch_are_let_through(
    name: str, classes: int, spread: float, right: float, samples: int
) -> None:
    y = torch.arange(samples) % classes
    logits = logits_for(y, classes, spread, right)
    found = has_other_labels(HONEST[name](logits, y), logits, y, mixed=True)
    assert found is not None
    assert not bool(found)


@pytest.mark.parametrize("spread", [0.01, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", OTHERS)
def test_mixed_labels_are_told(name: str, classes: int, spread: float) -> None:
    if (name, classes) in NOT_TOLD:
        pytest.skip("looks like the weights of classes or samples")
    y = torch.randint(classes, (64,))
    logits = logits_for(y, classes, spread, 0.8)
    assert bool(has_other_labels(OTHERS[name](logits, y), logits, y, mixed=True))


@pytest.mark.parametrize("name", PULLING)
def test_shuffled_labels_are_told(name: str) -> None:
    y = torch.randint(10, (64,))
    logits = logits_for(y, 10, 2.0, 0.3)
    assert bool(has_other_labels(HONEST[name](logits, y[torch.randperm(64)]), logits, y, mixed=False))


def test_a_loss_of_something_else_is_told() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    assert has_other_labels(torch.zeros(()), logits, torch.zeros(4), mixed=True) is None
    assert has_other_labels(torch.ones((), requires_grad=True) * 2, logits, torch.zeros(4), mixed=True) is None


class Normalises(pl.LightningModule):
    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.05)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self((x - 0.5) / 0.3), y)


@pytest.mark.parametrize("name", HONEST)
def test_a_step_that_normalises_trains_with_any_of_them_to_the_end(name: str) -> None:
    x = torch.rand(66, 4)  # the last batch is of two
    y = x[:, :3].argmax(1)
    fitting = trainer(
        max_epochs=30, callbacks=[ATLR(FGSM(0.01, bounds=None), mvl=["net.1"], analysis_every_n_epochs=0)]
    )
    fitting.fit(Normalises(HONEST[name]), DataLoader(TensorDataset(x, y), 32))
    assert fitting.global_step == 90
