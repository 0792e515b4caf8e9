"""What is attacked is one object, with the flat keywords as another way of saying it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning.attacks import FGSM, PGD, InputSpace
from lsa_lightning.callbacks import (
    ATLR,
    AdversarialTraining,
    AdversarialWeightPerturbation,
    CatastrophicOverfittingStop,
    RobustValidation,
    Target,
)
from lsa_lightning.objectives import AT, MART, TRADES, Objective
from lsa_lightning.utils.batch import read_batch

SPACE = InputSpace(0.5, 0.25)
CALLBACKS: dict[str, Callable[..., Any]] = {
    "at": lambda **options: AdversarialTraining(FGSM(0.1), **options),
    "atlr": lambda **options: ATLR(FGSM(0.1), **options),
    "validation": lambda **options: RobustValidation({"fgsm": FGSM(0.1)}, **options),
    "stop": lambda **options: CatastrophicOverfittingStop(FGSM(0.1), **options),
}


class WithBackbone(pl.LightningModule):
    """No forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3))


def swapped(batch: Any) -> Any:
    return batch[1], batch[0]


def first(output: Any) -> Any:
    return output[0]


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_target_is_the_same_as_the_flat_keywords(name: str) -> None:
    options: dict[str, Any] = {"backbone": "net", "batch_fn": swapped, "input_space": SPACE, "output_fn": first}
    target, flat = Target(**options), CALLBACKS[name](**options)
    assert flat.target == CALLBACKS[name](target=target).target == target
    assert CALLBACKS[name]().target == Target(None, read_batch, None)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_pair_is_an_input_space(name: str) -> None:
    assert repr(CALLBACKS[name](input_space=(0.5, 0.25)).target.input_space) == repr(SPACE)


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(
    "flat", [{"backbone": "net"}, {"batch_fn": swapped}, {"input_space": SPACE}, {"output_fn": first}]
)
def test_both_ways_at_once_are_refused(name: str, flat: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected either target or .*, got target and {next(iter(flat))}"):
        CALLBACKS[name](target=Target(), **flat)


@pytest.mark.parametrize("space", [0.5, "pixels"])
def test_something_else_is_no_input_space(space: Any) -> None:
    with pytest.raises(ValueError, match=r"expected input_space to be an InputSpace\(mean, std\) or None, got"):
        Target(input_space=space)


def test_the_model_is_the_backbone_or_the_module_itself() -> None:
    module = WithBackbone()
    assert Target("net.0").model(module) is module.net[0]
    with pytest.raises(MisconfigurationException, match=r"a submodule, got 'body'; these exist: net, net\.0"):
        Target("body").model(module)
    with pytest.raises(MisconfigurationException, match="expected WithBackbone to have a forward, or backbone to name"):
        Target().model(module)


def test_a_batch_is_unpacked_by_batch_fn() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert Target(batch_fn=swapped).unpack((y, x)) == (x, y)
    with pytest.raises(MisconfigurationException, match=r"expected a batch \(x, y, ...\) of tensors"):
        Target().unpack("batch")
    with pytest.raises(MisconfigurationException, match=r"expected batch_fn to return the tensors \(x, y\), got 5"):
        Target(batch_fn=lambda batch: 5).unpack((x, y))  # type: ignore[arg-type, return-value]


def test_an_attack_is_put_into_the_space_of_the_batches() -> None:
    attack = PGD(0.1)
    assert Target().in_space(attack) is attack
    assert repr(Target(input_space=SPACE).in_space(attack)) == f"InputSpace(mean=[0.5], std=[0.25])({attack!r})"


class Returns(pl.LightningModule):
    """Returns its logits as ``pack`` packs them."""

    def __init__(self, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3))
        self.pack, self.unpack = pack, unpack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.unpack(self(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: pl.LightningModule, objective: Objective, **options: Any) -> dict[str, Any]:
    """The weights and metrics after two epochs of everything that reads logits."""
    x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, (3 * x[:, 0]).long()), batch_size=16)
    attack = PGD(0.1, steps=2, seed=0)
    callbacks = [
        ATLR(attack, objective, top_k=1, **options),
        AdversarialWeightPerturbation(0.01),
        RobustValidation({"pgd": attack}, **options),
        CatastrophicOverfittingStop(attack, drop=1.0, **options),
    ]
    run = trainer(callbacks, max_epochs=2)
    run.fit(module, loader, loader)
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    return {**metrics, **{name: value.tolist() for name, value in module.state_dict().items()}}


@pytest.mark.parametrize("objective", [AT(), TRADES(), MART()], ids=repr)
@pytest.mark.parametrize(
    ("pack", "unpack", "options"),
    [
        (lambda z: {"loss": z.mean(), "logits": z}, lambda output: output["logits"], {}),
        (lambda z: (z.mean(dim=1), z), lambda output: output[1], {"output_fn": lambda output: output[1]}),
    ],
    ids=["logits", "output_fn"],
)
def test_logits_in_an_output_train_as_logits_alone(pack: Any, unpack: Any, options: Any, objective: Objective) -> None:
    expected = fit(Returns(lambda z: z, lambda z: z), objective)
    assert fit(Returns(pack, unpack), objective, **options) == expected


@pytest.mark.parametrize("objective", [AT(), TRADES()], ids=repr)
def test_an_output_without_logits_is_named_at_the_first_batch(objective: Objective) -> None:
    module = Returns(lambda z: (z, z), lambda output: output[0])
    with pytest.raises(ValueError, match=r"expected the model to return logits .*got a tuple of .*output_fn="):
        fit(module, objective)
