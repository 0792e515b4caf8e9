"""The adapter, against stand-ins that are called as torchattacks 3.5.1 and foolbox 3.3.4 are.

The real ones run in ``test_external_libraries.py``.
"""

from __future__ import annotations

import functools
import random
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, Attack, ExternalAttack
from lsa_lightning.attacks.external import as_four
from lsa_lightning.functional import predicted_labels


class TorchattacksStyle:
    """Built from a model, clamps to [0, 1], reseeds everything, uses backward(), flattens modes."""

    calls: list[dict[str, Any]]

    def __init__(self, model: nn.Module, eps: float = 0.1, alpha: float = 0.025, steps: int = 4) -> None:
        self.model, self.eps, self.alpha, self.steps = model, eps, alpha, steps
        self.device = next(model.parameters()).device

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.model.eval()
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        SEEN.append({"eps": self.eps, "alpha": self.alpha, "images": images.clone(), "labels": labels})
        x = images.clone()
        for _ in range(self.steps):
            x = x.detach().requires_grad_()
            nn.functional.cross_entropy(self.model(x), labels).backward()
            assert x.grad is not None
            x = (x + self.alpha * x.grad.sign()).clamp(images - self.eps, images + self.eps).clamp(0, 1)
        self.model.train()
        return x.detach()


class FoolboxStyle:
    """Called with an adapted model and a criterion; gives raw, clipped and success."""

    def repeat(self, times: int) -> FoolboxStyle:
        return self

    def __call__(self, model: Any, inputs: Tensor, criterion: Any, *, epsilons: float) -> tuple[Tensor, Tensor, Tensor]:
        SEEN.append({"eps": epsilons, "images": inputs.clone(), "labels": criterion.labels})
        x = inputs.clone().requires_grad_()
        nn.functional.cross_entropy(model(x), criterion.labels).backward()
        assert x.grad is not None
        clipped = (inputs + epsilons * x.grad.sign()).clamp(*model.bounds)
        return clipped, clipped, model(clipped).argmax(1) != criterion.labels


class FoolboxModel:
    def __init__(self, model: nn.Module, bounds: tuple[float, float], device: torch.device) -> None:
        self.model, self.bounds, self.device = model.to(device), bounds, device

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


class Misclassification:
    def __init__(self, labels: Tensor) -> None:
        self.labels = labels


SEEN: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    for name in ("foolbox", "foolbox.models", "foolbox.models.pytorch", "foolbox.criteria"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["foolbox.models.pytorch"])["PyTorchModel"] = FoolboxModel
    vars(sys.modules["foolbox.criteria"])["Misclassification"] = Misclassification


def network(inputs: int, logits: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, logits)
    ).to(dtype)


STYLES: dict[str, Any] = {"torchattacks": TorchattacksStyle, "foolbox": FoolboxStyle()}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("logits", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0), None])
@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)], ids=str)
def test_eps_and_bounds_hold(style: str, logits: int, dtype: torch.dtype, bounds: Any, shape: tuple[int, ...]) -> None:
    x = torch.rand(4, *shape, dtype=torch.float64)
    x = (x * 4 - 1 if bounds != (0.0, 1.0) else x).to(dtype)
    y = torch.tensor([0, 1, 1, 0])
    x_adv = ExternalAttack(STYLES[style], 0.2, bounds=bounds)(network(x[0].numel(), logits, dtype), x, y)
    assert (x_adv.shape, x_adv.dtype) == (x.shape, x.dtype)
    assert 0 < (x_adv.double() - x.double()).abs().max() <= 0.2
    assert bounds is None or (x_adv.min() >= bounds[0] and x_adv.max() <= bounds[1])


@pytest.mark.parametrize("style", STYLES)
def test_the_other_library_sees_images_in_0_1_and_eps_in_their_units(style: str) -> None:
    x = torch.rand(4, 6) * 4 - 1
    ExternalAttack(STYLES[style], 0.2, bounds=(-1.0, 3.0))(network(6, 3), x, torch.tensor([0, 1, 2, 0]))
    assert SEEN[0]["images"].shape == (4, 1, 1, 6)
    torch.testing.assert_close(SEEN[0]["images"].flatten(1), (x + 1) / 4)
    assert SEEN[0]["eps"] == pytest.approx(0.05)
    assert SEEN[0]["labels"].dtype == torch.int64


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("bounds", [(-2.0, 2.0), None])
def test_one_full_step_equals_our_fgsm(style: str, bounds: Any) -> None:
    net, x = network(6, 3).eval(), torch.rand(4, 6) * 3 - 1.5
    y = predicted_labels(net(x))
    attack = functools.partial(TorchattacksStyle, alpha=0.3, steps=1) if style == "torchattacks" else STYLES[style]
    torch.testing.assert_close(
        ExternalAttack(attack, 0.3, bounds=bounds)(net, x, y), FGSM(0.3, bounds=bounds)(net, x, y), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("style", STYLES)
def test_modes_gradients_buffers_and_random_states_stay(style: str) -> None:
    net, x, y = network(6, 3), torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    net[2].eval()
    net(x).sum().backward()
    modes = [module.training for module in net.modules()]
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    buffers = [buffer.clone() for buffer in net.buffers()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with torch.inference_mode():
        ExternalAttack(STYLES[style], 0.1)(net, x, y)
    assert modes == [module.training for module in net.modules()]
    assert all(map(torch.equal, gradients, [p.grad for p in net.parameters() if p.grad is not None]))
    assert all(map(torch.equal, buffers, net.buffers()))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@pytest.mark.parametrize(
    ("attack", "alpha"),
    [(TorchattacksStyle, 0.1), (functools.partial(TorchattacksStyle, alpha=0.3), 0.6)],
    ids=["default", "given"],
)
def test_alpha_scales_with_eps(attack: Any, alpha: float) -> None:
    net, x, y = network(6, 3), torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    wider = ExternalAttack(attack, 0.2).with_eps(0.4)
    wider(net, x, y)
    assert SEEN[0]["eps"] == pytest.approx(0.4)
    assert SEEN[0]["alpha"] == pytest.approx(alpha)


def test_a_factory_without_eps_is_projected() -> None:
    class Far:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
            return 1 - images

    x = torch.rand(4, 6)
    x_adv = ExternalAttack(Far, 0.5, norm="L2")(network(6, 3), x, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close((x_adv - x).norm(dim=1), torch.full((4,), 0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("attack", [TorchattacksStyle(nn.Linear(2, 2)), FoolboxStyle, 3])
def test_what_is_neither_is_named(attack: Any) -> None:
    with pytest.raises(ValueError, match=r"expected attack to be a torchattacks class .* or a foolbox attack"):
        ExternalAttack(attack)


def test_it_plugs_in_by_target_alone() -> None:
    here = "tests.attacks.test_external"
    sys.modules.setdefault(here, sys.modules[__name__])
    node = {
        "_target_": "lsa_lightning.attacks.ExternalAttack",
        "eps": 0.2,
        "attack": {"_target_": f"{here}.TorchattacksStyle", "_partial_": True, "steps": 2},
    }
    attack = instantiate(node, _convert_="all")
    assert isinstance(attack, Attack)
    x = torch.rand(4, 6)
    assert (attack(network(6, 3), x, torch.tensor([0, 1, 2, 0])) - x).abs().max() == pytest.approx(0.1)


def test_inputs_of_few_dimensions_are_images_of_one_row() -> None:
    shapes = [(2, 5), (2, 3, 5), (2, 3, 4, 5)]
    assert [tuple(as_four(torch.zeros(s)).shape) for s in shapes] == [(2, 1, 1, 5), (2, 1, 3, 5), (2, 3, 4, 5)]
