from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.helpers.modules import ModularConvNet
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.pairs import OneAfterTheOther, SideBySide, comparison
from lsa_lightning.layers.resolve import locate_layers
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, CosineDistance, RelativeError
from lsa_lightning.models import CNN, MLP


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.rand_like(x))


class Mixing(nn.Sequential):
    """Each sample sees the batch's mean."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Whole(nn.Sequential):
    """Has further tensors for the rows of its first batch, and takes those alone."""

    first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.first = x[0].clone() if self.first is None else self.first
        if not torch.equal(x[0], self.first):
            msg = "expected the batch"
            raise ValueError(msg)
        return super().forward(x)


def chosen(net: nn.Module, x: Tensor, measure: ComparisonMeasure | None = None) -> type:
    layers, sites = locate_layers(net, ["1"], x)
    net.eval()
    with torch.no_grad():
        return type(comparison(net, {layers[0].name: sites["1"]}, measure or RelativeError(), x))


def small(cls: Callable[..., nn.Sequential] = nn.Sequential) -> nn.Sequential:
    torch.manual_seed(0)
    return cls(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


@pytest.mark.parametrize("measure", [RelativeError(), CosineDistance()])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(small, (6,)), (MLP, (2,)), (CNN, (1, 28, 28)), (ModularConvNet, (1, 8, 8))],
)
def test_both_ways_give_the_same(
    make: Callable[[], nn.Module], shape: tuple[int, ...], measure: ComparisonMeasure
) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), torch.rand(7, *shape)
    x_adv = x + 0.05 * torch.randn_like(x)
    layers, sites = locate_layers(net, None, x)
    named = {layer.name: sites[layer.name] for layer in layers}
    with torch.no_grad():
        assert SideBySide(net, named, measure).suits(x)
        ours, expected = (way(net, named, measure).errors(x, x_adv) for way in (SideBySide, OneAfterTheOther))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert ours.shape == (7, len(layers))


@pytest.mark.parametrize("samples", [65, 64, 4])
def test_a_batch_is_taken_in_parts(samples: int) -> None:
    net, x = small().eval(), torch.rand(samples, 6)
    x_adv = x + 0.1 * torch.randn_like(x)
    _, sites = locate_layers(net, ["1"], x)
    passes: list[int] = []
    net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    with torch.no_grad():
        errors = SideBySide(net, {"1": sites["1"]}, RelativeError()).errors(x, x_adv)
        both = (torch.relu(net[0](batch)) for batch in (x, x_adv))
        torch.testing.assert_close(errors[:, 0], RelativeError()(*both))
    assert sum(passes) == 2 * samples
    assert max(passes) <= 64


def test_what_mixes_samples_or_draws_is_run_twice() -> None:
    x = torch.rand(10, 6)
    assert chosen(small(), x) is SideBySide
    assert chosen(small(Mixing), x) is OneAfterTheOther
    assert chosen(small(Noisy), x) is OneAfterTheOther
    assert chosen(small(Whole), x) is OneAfterTheOther
    assert chosen(small(), x, CenteredRelativeError()) is OneAfterTheOther
    assert chosen(small(), x[:3]) is OneAfterTheOther


def test_a_measure_of_ones_own_gets_the_whole_batch() -> None:
    sizes: list[int] = []

    class Own(ComparisonMeasure):
        def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
            sizes.append(len(clean))
            return (clean - perturbed).flatten(1).norm(dim=1)

    LayerSustainabilityAnalysis(small(), measure=Own()).run([(torch.rand(100, 6), torch.zeros(100).long())], PGD(0.1))
    assert sizes == [100]


def test_a_noisy_model_draws_the_same_for_both_batches() -> None:
    report = LayerSustainabilityAnalysis(small(Noisy)).run([(torch.rand(10, 6), torch.zeros(10).long())], same)
    assert float(report.mu) == 0


def same(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x
