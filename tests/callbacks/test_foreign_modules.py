"""ATLR beside LightningModules and backbones that it has never seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision.models as tv
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities import CombinedLoader
from tests.helpers.modules import DictForeignModule, ForeignModule, as_dicts, loader, trainer
from tests.helpers.training import MVL, assert_same, fit, foreign, pgd, reference
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM

pytestmark = pytest.mark.usefixtures("float64")


class Wrapped(pl.LightningModule):
    """A usual LightningModule around a backbone under a name of its own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.encoder = backbone

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.encoder(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("loss", F.cross_entropy(self.encoder(x), y))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Functional(nn.Module):
    """LayerNorm and functional activations only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3 * 32 * 32, 8)
        self.norm = nn.LayerNorm(8)
        self.fc2 = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.fc1(x.flatten(1))))
        return self.head(F.relu(self.fc2(F.dropout(x, training=self.training))))


def vgg11_bn() -> nn.Module:
    """With one linear layer in place of the 120 million weights of the usual three."""
    model = tv.vgg11_bn(init_weights=False)
    model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(512 * 7 * 7, 3))
    return model


def small_vit() -> nn.Module:
    return tv.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, dropout=0.1, num_classes=3)


def small_timm_vit() -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, drop_rate=0.1, **sizes)


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: tv.resnet18(num_classes=3),
    "vgg11_bn": vgg11_bn,
    "mobilenet_v3_small": lambda: tv.mobilenet_v3_small(num_classes=3),
    "vit": small_vit,
    "timm vit": small_timm_vit,
    "timm resnet10t": lambda: timm.create_model("resnet10t", num_classes=3),
    "timm convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=3),
    "timm mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=3),
    "functional": Functional,
}


def pixels(batch_size: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(8) % 3), batch_size=batch_size)


def wrapped(name: str) -> Wrapped:
    torch.manual_seed(0)
    return Wrapped(BACKBONES[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_train_and_without_an_effect_are_what_they_are_alone(name: str) -> None:
    module = wrapped(name)
    idle, alone = copy.deepcopy(module), copy.deepcopy(module)
    callback = ATLR(FGSM(0.05), top_k=2, analysis_limit_batches=1)
    run = trainer([callback])
    run.fit(module, pixels(), pixels())
    assert torch.isfinite(run.callback_metrics["train/loss_lr"])
    assert len(callback.mvl or []) == 2

    neutral = ATLR(FGSM(0.0), regularizer=LayerwiseRegularizer(gamma=0.0), top_k=2, analysis_limit_batches=1)
    for target, callbacks in ((idle, [neutral]), (alone, [])):
        torch.manual_seed(1)
        trainer(callbacks).fit(target, pixels(), pixels())
    assert_same(idle, alone, tolerance=0.0)


def unlabelled(batch: Tensor) -> tuple[Tensor, Tensor]:
    return batch, torch.zeros(len(batch), dtype=torch.int64)


def test_lightnings_own_demo_module() -> None:
    idle, alone = BoringModel(), BoringModel()
    idle.layer.bias.data = torch.tensor([-3.0, 0.0])  # its loss pulls both outputs to 1: here to the class of the batch
    alone.load_state_dict(idle.state_dict())
    attack = FGSM(0.0, bounds=None)
    regularizer = LayerwiseRegularizer(gamma=0.0)
    callback = ATLR(attack, layers=["layer"], regularizer=regularizer, top_k=1, batch_fn=unlabelled)
    data = DataLoader(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), batch_size=4)
    for target, callbacks in ((idle, [callback]), (alone, [])):
        trainer(callbacks).fit(target, data, data)
    assert callback.mvl == ["layer"]
    assert_same(idle, alone, tolerance=0.0)


@pytest.mark.parametrize("dictionary", [False, True])
def test_hand_written_modules_with_dropout_and_frozen_layers(dictionary: bool) -> None:
    cls, collate = (DictForeignModule, as_dicts) if dictionary else (ForeignModule, None)
    idle, alone = foreign(cls, dropout=0.5), foreign(cls, dropout=0.5)
    for module in (idle, alone):
        module.net.conv1.requires_grad_(False)
        module.net.bn1.eval()
    fit(idle, ATLR(FGSM(0.0), regularizer=LayerwiseRegularizer(gamma=0.0), top_k=2), collate=collate)
    torch.manual_seed(1)
    trainer([]).fit(alone, loader(collate=collate), loader(seed=1, collate=collate))
    assert_same(idle, alone, tolerance=0.0)
    assert not idle.net.conv1.weight.requires_grad


def test_several_dataloaders_are_read_by_batch_fn() -> None:
    class TwoLoaders(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            return super().training_step(batch["labelled"]) + 0.0 * batch["extra"][0].sum()

    module, expected = foreign(TwoLoaders), foreign()
    callback = ATLR(pgd(), mvl=MVL, batch_fn=lambda batch: batch["labelled"], analysis_every_n_epochs=0)
    both = CombinedLoader({"labelled": loader(), "extra": loader(seed=2)})
    trainer([callback]).fit(module, both)
    assert_same(module, reference(expected, dict.fromkeys(MVL, 0.1)))


@pytest.mark.parametrize("other", [EMAWeightAveraging(decay=0.5), StochasticWeightAveraging(swa_lrs=0.05)])
def test_beside_averaging_of_weights(other: pl.Callback) -> None:
    module, expected = foreign(), foreign()
    lr_of_swa = isinstance(other, StochasticWeightAveraging)
    callback = ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL, analysis_every_n_epochs=0)
    trained: dict[str, Tensor] = {}
    spy = pl.callbacks.LambdaCallback(on_train_batch_end=lambda t, m, *_: trained.update(_parameters(m)))
    torch.manual_seed(1)
    trainer([callback, copy.deepcopy(other), spy], max_epochs=1 if not lr_of_swa else 2).fit(module, loader())
    assert "training_step" not in vars(module)
    if lr_of_swa:
        assert all(torch.isfinite(p).all() for p in module.parameters())
        return
    reference(expected, dict.fromkeys(MVL, 0.5))
    for name, value in expected.named_parameters():
        torch.testing.assert_close(trained[name], value.detach(), rtol=0, atol=1e-6)


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize("what", ["module", "backbone"])
def test_compiled_models_equal_the_hand_written_loop(what: str) -> None:
    module, expected = foreign(), foreign()
    if what == "backbone":
        module.net.compile(backend="eager")
    target = torch.compile(module, backend="eager") if what == "module" else module
    callback = ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL, analysis_every_n_epochs=0)
    torch.manual_seed(1)
    trainer([callback]).fit(target, loader())
    assert_same(module, reference(expected, dict.fromkeys(MVL, 0.5)))


def test_a_wrapped_compiled_backbone_is_found_under_its_own_names() -> None:
    module = foreign()
    module.net = torch.compile(module.net, backend="eager")
    callback = ATLR(pgd(), top_k=1)
    run = trainer([callback])
    run.fit(module, loader(), loader(seed=1))
    assert callback.mvl is not None
    assert callback.mvl[0].startswith("net._orig_mod.")
    assert float(run.callback_metrics["train/loss_lr"]) > 0


def test_several_optimizers_with_automatic_optimization_are_lightnings_own_error() -> None:
    class TwoOptimizers(ForeignModule):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net.fc1.parameters(), 0.1), torch.optim.SGD(self.net.fc2.parameters(), 0.1)]

    module = foreign(TwoOptimizers)
    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual optimization"):
        fit(module, AdversarialTraining(pgd()))
    assert "training_step" not in vars(module)


class Lazy(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))  # type: ignore[assignment]


@pytest.mark.parametrize("callback", [AdversarialTraining, ATLR])
def test_lazy_modules_meet_a_batch_before_training(callback: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"uninitialised ones, \['net.1.weight', .*sanity check"):
        trainer([callback(FGSM(0.1))], num_sanity_val_steps=0).fit(Lazy(), loader(), loader(seed=1))
    trainer([callback(FGSM(0.1))], num_sanity_val_steps=1).fit(Lazy(), loader(), loader(seed=1))
