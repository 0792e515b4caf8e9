"""Gradients in float16: those of float32, where the cross-entropy's own gradient is far below float16's numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from tests.helpers.digits import TRAINED, confident, digits, trained
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, PGD, Attack
from lsa_lightning.attacks.gradients import input_gradient, pull_back, weight_gradients
from lsa_lightning.attacks.losses import cross_entropy
from lsa_lightning.evaluation import correct

ATTACKS: dict[str, Callable[[], Attack]] = {
    "pgd": lambda: PGD(0.1, steps=5, seed=0),
    "pgd l2": lambda: PGD(0.8, steps=5, norm="L2", seed=0),
    "apgd": lambda: APGD(0.15, steps=5, seed=0),
}


def float16(way: str, network: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor, AbstractContextManager[Any]]:
    if way == "autocast":
        return network, x, torch.autocast("cpu", torch.float16)
    return copy.deepcopy(network).half(), x.half(), nullcontext()


@pytest.mark.parametrize("way", ["autocast", "half"])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", TRAINED)
def test_accuracy_under_attack_is_that_of_float32(name: str, attack: str, way: str) -> None:
    network, (x, y) = confident(trained(name), 10.0), digits()
    expected = correct(network, ATTACKS[attack]()(network, x, y), y).float().mean()
    model, inputs, context = float16(way, network, x)
    with context:
        x_adv = ATTACKS[attack]()(model, inputs, y)
    accuracy = correct(network, x_adv.float(), y).float().mean()
    assert abs(float(accuracy - expected)) <= 0.005


def slope(factor: float, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Tensor]:
    """Inputs and logits ``[2, 2]``; one sample, ``factor`` times as steep as the other."""
    x = torch.ones(2, 2, dtype=dtype, requires_grad=True)
    return x, x * torch.tensor([[1.0, -1.0], [factor, -factor]], dtype=dtype)


@pytest.mark.parametrize("loss", [1e-30, 1e-9, 1.0, 1e4])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3, 6e4])
def test_gradients_neither_vanish_nor_overflow(loss: float, factor: float) -> None:
    x, logits = slope(factor)
    gradient = input_gradient(logits, x, lambda z: loss * z.sum(dim=1))[1]
    assert gradient is not None
    assert gradient.dtype == torch.float32
    expected = loss * torch.tensor([[1.0, -1.0], [factor, -factor]])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_other_precisions_take_the_gradient_as_it_is(dtype: torch.dtype) -> None:
    (x, logits), y = slope(3.0, dtype), torch.tensor([0, 1])
    losses, gradient = input_gradient(logits, x, lambda z: cross_entropy(z, y))
    again, (reference, steeper) = slope(3.0, dtype)[1], slope(3.0, dtype)
    expected = torch.autograd.grad(cross_entropy(steeper, y).sum(), reference)[0]
    assert gradient is not None
    assert torch.equal(gradient, expected)
    assert torch.equal(losses, cross_entropy(again, y).detach())
    assert not losses.requires_grad


def test_the_weights_of_a_backward_pass_may_be_0() -> None:
    x, logits = slope(1.0)
    gradient = pull_back(logits, x, torch.tensor([[0.0, 0.0], [1e-12, 0.0]]))
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [1e-12, 0.0]]))


@pytest.mark.parametrize("loss", [1e-20, 1e-9, 1.0, 1e5])
@pytest.mark.parametrize("factor", [1e-2, 1.0, 5e4])
def test_gradients_of_weights_neither_vanish_nor_overflow(loss: float, factor: float) -> None:
    weight, unused = (torch.ones(2, dtype=torch.float16, requires_grad=True) for _ in range(2))
    found, none = weight_gradients((weight * factor).float().sum() / (2 * factor) * loss, [weight, unused])
    assert none is None
    assert found is not None
    torch.testing.assert_close(found, torch.full((2,), loss / 2), rtol=1e-3, atol=0.0)
