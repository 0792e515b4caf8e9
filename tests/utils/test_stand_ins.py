"""Layers while parameters are frozen: what torch's own give, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.utils.isolation import frozen
from lsa_lightning.utils.stand_ins import stand_in


def halved(x: Tensor) -> Tensor:
    pool = nn.MaxPool2d(2)
    with frozen(pool):
        assert "forward" in vars(pool)
        y: Tensor = pool(x)
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (2, 3, 5, 9), (1, 1, 2, 2), (2, 1, 3, 200)])
def test_the_largest_of_four_and_its_gradient_with_many_equal_values(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    expected, got = nn.functional.max_pool2d(x, 2), halved(x)
    assert torch.equal(got, expected)
    weights = torch.rand_like(got)
    ours, theirs = (torch.autograd.grad(y, x, weights)[0] for y in (got, expected))
    assert torch.equal(ours, theirs)
    assert torch.equal(halved(x.detach()), expected)


@pytest.mark.parametrize("make", [lambda x: x[0], lambda x: x.to(memory_format=torch.channels_last)])
def test_other_inputs_go_to_torch(make: Any) -> None:
    x = make(torch.rand(2, 3, 6, 6))
    assert torch.equal(halved(x), nn.functional.max_pool2d(x, 2))


class OwnPool(nn.MaxPool2d):
    """Nobody knows what it does."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        OwnPool(2),
        nn.BatchNorm2d(3),  # in training mode
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
    ],
)
def test_other_layers_stay_themselves(layer: nn.Module) -> None:
    assert stand_in(layer) is None


def test_an_attack_finds_the_same_through_either_pool() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d((2, 2)), nn.Flatten(), nn.Linear(36, 3))
    other = nn.Sequential(net[0], net[1], OwnPool(2), net[3], net[4])
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(PGD(0.1, seed=0)(net, x, y), PGD(0.1, seed=0)(other, x, y))
    assert "forward" not in vars(net[2])


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3, affine=False).eval(), nn.MaxPool2d(2)])
def test_derivatives_forwards_are_those_of_torch(layer: nn.Module) -> None:
    torch.manual_seed(0)
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
        layer.running_mean.normal_()
    other = stand_in(layer)
    assert other is not None
    x, direction = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5, requires_grad=True)
    expected, got = (torch.func.jvp(function, (x,), (direction,))[1] for function in (layer, other))
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(each.square().sum(), direction)[0] for each in (expected, got)]
    torch.testing.assert_close(gradients[1], gradients[0])
