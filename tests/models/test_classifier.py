"""The LightningModule."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning.models import MLP, Normalize, RobustClassifier

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


def batch(classes: int, n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, 2, generator=generator) + y.unsqueeze(1), y


def loader(classes: int, n: int = 24, batch_size: int = 10) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*batch(classes, n)), batch_size=batch_size)


def trainer(**kwargs: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", **{"max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **kwargs})


def classifier(classes: int, **kwargs: Any) -> RobustClassifier:
    torch.manual_seed(0)
    return RobustClassifier(MLP(hidden=[8], out_features=1 if classes == 2 else classes), **kwargs)


def loss_by_hand(logits: Tensor, y: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits.flatten(), y.float())
    return F.cross_entropy(logits, y)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_training_step_gives_the_cross_entropy(classes: int) -> None:
    model = classifier(classes)
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    x, y = batch(classes)
    torch.testing.assert_close(model.training_step((x, y), 0), loss_by_hand(model(x), y))


@pytest.mark.parametrize("classes", [2, 4])
def test_logged_test_values_are_means_over_the_samples(classes: int) -> None:
    model = classifier(classes)
    (values,) = trainer().test(model, loader(classes), verbose=False)
    x, y = batch(classes)
    with torch.no_grad():
        logits = model(x)
    predicted = (logits.flatten() > 0).long() if classes == 2 else logits.argmax(1)
    assert values["test/loss"] == pytest.approx(float(loss_by_hand(logits, y)), abs=1e-6)
    assert values["test/acc"] == pytest.approx(float((predicted == y).float().mean()), abs=1e-6)


def test_what_a_fit_logs() -> None:
    fit = trainer()
    fit.fit(classifier(2), loader(2), loader(2))
    assert set(fit.callback_metrics) == {"train/loss", "train/acc", "val/loss"}


@pytest.mark.parametrize("classes", [2, 4])
def test_fitting_lowers_the_loss(classes: int) -> None:
    model = classifier(classes, optimizer=partial(torch.optim.Adam, lr=0.05))
    x, y = batch(classes)
    before = loss_by_hand(model(x), y).item()
    trainer(max_epochs=10).fit(model, loader(classes))
    assert loss_by_hand(model(x), y).item() < 0.8 * before


@pytest.mark.parametrize("classes", [2, 4])
def test_prediction_gives_classes_from_batches_and_bare_inputs(classes: int) -> None:
    model = classifier(classes)
    x, _ = batch(classes)
    with torch.no_grad():
        logits = model(x)
    expected = (logits.flatten() > 0).long() if classes == 2 else logits.argmax(1)
    assert torch.equal(torch.cat(trainer().predict(model, loader(classes))), expected)
    assert torch.equal(model.predict_step(x, 0), expected)
    assert torch.equal(model.predict_step([x], 0), expected)


def test_normalisation_comes_before_the_backbone() -> None:
    model = classifier(2, normalize=Normalize([1.0, 2.0], [0.5, 0.5]))
    x, _ = batch(2)
    torch.testing.assert_close(model(x), model.backbone((x - torch.tensor([1.0, 2.0])) / 0.5))


def test_float_labels_of_a_binary_model() -> None:
    model = classifier(2)
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    x, y = batch(2)
    assert torch.equal(model.training_step((x, y.double().unsqueeze(1)), 0), model.training_step((x, y), 0))


def test_the_default_optimizer_is_adam_without_scheduler() -> None:
    model = classifier(2)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_the_scheduler_steps_once_an_epoch() -> None:
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    fit = trainer(max_epochs=2)
    fit.fit(classifier(2, optimizer=partial(torch.optim.SGD, lr=1.0), scheduler=schedule), loader(2))
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_the_weights_come_back_from_a_checkpoint() -> None:
    stored = classifier(2).state_dict()
    assert set(stored) == {f"backbone.{name}.{kind}" for name in ("fc1", "head") for kind in ("weight", "bias")}
    torch.manual_seed(9)
    other = RobustClassifier(MLP(hidden=[8]))
    other.load_state_dict(stored)
    x, _ = batch(2)
    assert torch.equal(other(x), classifier(2)(x))
