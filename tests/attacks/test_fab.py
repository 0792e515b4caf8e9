from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FAB
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.attacks.fab import to_hyperplane
from lsa_lightning.functional import predicted_labels


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(logits: int = 4, inputs: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, logits)).double().eval()


def batch(net: nn.Module, n: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, predicted_labels(net(x)).clone()


def length(ways: Tensor, norm: str) -> Tensor:
    return ways.flatten(1).abs().amax(1) if norm == "Linf" else ways.flatten(1).norm(dim=1)


def nearest_by_bisection(p: Tensor, w: Tensor, gap: float, norm: str, bounds: tuple[float, float]) -> Tensor:
    """Of one point: the multiplier that reaches the hyperplane, halved down to it."""
    slow, fast = 0.0, 1e6
    for _ in range(200):
        middle = (slow + fast) / 2
        step = w.sign() if norm == "Linf" else w
        way = (p + middle * step * (1 if gap > 0 else -1)).clamp(*bounds) - p
        slow, fast = (middle, fast) if float((w * way).sum().abs()) < abs(gap) else (slow, middle)
    return way


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 3.0)])
def test_the_way_to_a_hyperplane_is_the_shortest_within_the_bounds(norm: str, bounds: tuple[float, float]) -> None:
    p, w, gap = drawn(40, 7).abs().clamp(0, 1), drawn(40, 7, seed=1), drawn(40, seed=2)
    w[:, 0] = 0
    way = to_hyperplane(p, w, gap, norm, bounds)
    expected = torch.stack([nearest_by_bisection(*row, norm, bounds) for row in zip(p, w, gap.tolist(), strict=True)])
    torch.testing.assert_close(way, expected, rtol=1e-6, atol=1e-9)
    room = (bounds[1] - p).where(w * gap[:, None] > 0, p - bounds[0])
    out_of_reach = (w.abs() * room).sum(1) < gap.abs()
    assert 0 < out_of_reach.sum() < 40 or bounds != (0.0, 1.0)
    torch.testing.assert_close((w * way).sum(1)[~out_of_reach], gap[~out_of_reach])
    torch.testing.assert_close(way.abs()[out_of_reach], (room * (w != 0))[out_of_reach])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_bounds_the_way_is_that_of_the_formula(norm: str) -> None:
    p, w, gap = drawn(5, 3), drawn(5, 3, seed=1), drawn(5, seed=2)
    if norm == "Linf":
        expected = gap[:, None] * w.sign() / w.abs().sum(1, keepdim=True)
    else:
        expected = gap[:, None] * w / w.square().sum(1, keepdim=True)
    torch.testing.assert_close(to_hyperplane(p, w, gap, norm, None), expected)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_where_there_is_no_slope_nothing_moves(norm: str) -> None:
    way = to_hyperplane(torch.rand(2, 3), torch.zeros(2, 3), torch.tensor([1.0, 0.0]), norm, (0.0, 1.0))
    assert torch.equal(way, torch.zeros(2, 3))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("options", [{}, {"n_targets": 2}], ids=["nearest", "targeted"])
def test_it_finds_the_distance_of_a_linear_model(norm: str, options: dict[str, Any]) -> None:
    net = nn.Linear(6, 3).double()
    x, y = drawn(5, 6), predicted_labels(net(drawn(5, 6))).clone()
    w, logits = net.weight.detach(), net(x).detach()
    distances = []
    for k in range(3):
        normal, gap = w[k] - w[y], logits.gather(1, y[:, None])[:, 0] - logits[:, k]
        distances.append(gap / normal.norm(p=1 if norm == "Linf" else 2, dim=1))
    nearest = torch.stack(distances, 1).scatter(1, y[:, None], torch.inf).amin(1)
    found = torch.stack([_found(net, x, y, norm, scale * nearest, options) for scale in (0.99, 1.01)])
    assert not found[0].any()
    assert found[1].all()


def _found(net: nn.Module, x: Tensor, y: Tensor, norm: str, eps: Tensor, options: dict[str, Any]) -> Tensor:
    """Whether each sample is misclassified at a radius of its own."""
    attacks = [FAB(radius, 40, norm=norm, bounds=None, **options) for radius in eps.tolist()]
    points = [attack(net, x[i : i + 1], y[i : i + 1]) for i, attack in enumerate(attacks)]
    return predicted_labels(net(torch.cat(points))) != y


class Waves(nn.Module):
    """Logits that are sines of inputs, the same in every version of torch."""

    def forward(self, x: Tensor) -> Tensor:
        k = torch.arange(1, 5, dtype=x.dtype)
        i = torch.arange(x[0].numel(), dtype=x.dtype)
        return torch.sin(x.flatten(1) @ torch.cos(i[:, None] * k)) + 0.1 * x.flatten(1) @ torch.sin(i[:, None] + k)


NORMS_OF_THE_REFERENCE = {
    ("Linf", True): [0.1241049, 0.0918373, 0.0253708, 0.0260291, 0.0428207, 0.092654],
    ("Linf", False): [0.124105, 0.0918373, 0.0253708, 0.0260291, 0.0428207, 0.0830402],
    ("L2", True): [0.4053939, 0.3211546, 0.0893424, 0.0899362, 0.1510324, 0.3213436],
    ("L2", False): [0.405394, 0.3211547, 0.0893423, 0.0899362, 0.1510324, 0.2872271],
}
"""Norms found by the authors' attack (auto-attack at a392200), in 20 steps, by norm and whether towards one class."""


def waves(n: int = 6) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n * 16, dtype=torch.float32) * 0.61803).frac().view(n, 1, 4, 4)
    return x, predicted_labels(Waves()(x)).clone()


@pytest.mark.parametrize(("norm", "targeted"), NORMS_OF_THE_REFERENCE)
def test_norms_are_those_of_the_authors(norm: str, targeted: bool) -> None:
    x, y = waves()
    attack = FAB(1.0 if norm == "Linf" else 4.0, 20, norm=norm, n_targets=1 if targeted else None)
    found = length(attack(Waves(), x, y) - x, norm)
    torch.testing.assert_close(found, torch.tensor(NORMS_OF_THE_REFERENCE[norm, targeted]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"n_targets": 2}], ids=["nearest", "targeted"])
def test_no_sample_influences_another(options: dict[str, Any]) -> None:
    net = network()
    x, y = batch(net)
    attack = FAB(0.1, 10, **options)
    alone = torch.cat([attack(net, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(attack(net, x, y), alone)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_samples_that_stand_are_taken_to_the_ball(norm: str) -> None:
    net = network()
    x, y = batch(net)
    found = FAB(1.0, norm=norm)(net, x, y)
    eps = float(length(found - x, norm).sort().values[3:5].mean())
    x_adv = FAB(eps, norm=norm)(net, x, y)
    near = length(found - x, norm) <= eps
    assert 0 < near.sum() < len(x)
    assert torch.equal(x_adv[near], found[near])
    assert torch.equal(predicted_labels(net(x_adv)) != y, near)
    torch.testing.assert_close(length(x_adv - x, norm)[~near], torch.full_like(x[~near, 0], eps), rtol=1e-5, atol=0)


def test_what_is_misclassified_is_left_alone() -> None:
    net = network()
    x, y = batch(net)
    y[0] = (y[0] + 1) % 4
    assert torch.equal(FAB(0.1, 5)(net, x, y)[0], x[0])


def test_one_logit_is_two_classes() -> None:
    net = network(1)
    x, y = batch(net)
    both = nn.Sequential(net, Beside())
    for options in ({}, {"n_targets": 9}):
        attack = FAB(0.5, 10, **options)
        torch.testing.assert_close(attack(net, x, y), attack(both, x, y))


class Beside(nn.Module):
    """One logit z as (0, z)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(z), z], dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_restarts_begin_half_way_to_the_ball(norm: str) -> None:
    net, starts = network(), list[Tensor]()
    x, y = batch(net)
    attack = FAB(0.05, 1, norm=norm, n_restarts=3, bounds=None, seed=0)

    def noted(ball: Ball) -> Tensor:
        starts.append(FAB.random_start(attack, ball))
        return starts[-1]

    vars(attack)["random_start"] = noted
    attack(net, x, y)
    assert len(starts) == 2
    assert not torch.equal(*starts)
    for start in starts:
        torch.testing.assert_close(length(start - x, norm), torch.full_like(x[:, 0], 0.025), rtol=1e-5, atol=0)


def test_more_restarts_and_targets_find_no_less() -> None:
    net, (x, y) = Waves(), waves(40)
    few, many = (FAB(0.1, 1, n_targets=n, n_restarts=n, seed=0)(net, x, y) for n in (1, 3))
    fooled, more = (predicted_labels(net(each)) != y for each in (few, many))
    assert fooled.sum() < more.sum()
    assert not (fooled & ~more).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "L1"}, "expected norm to be one of"),
        ({"steps": 0}, "expected steps to be an integer >= 1, got 0"),
        ({"n_targets": 0}, "expected n_targets to be an integer >= 1 or None, got 0"),
        ({"n_restarts": 0}, "expected n_restarts to be an integer >= 1, got 0"),
        ({"alpha_max": 1.5}, r"expected alpha_max to be a finite number in \[0, 1\], got 1.5"),
        ({"eta": 0.9}, "expected eta to be a finite number >= 1, got 0.9"),
        ({"beta": 0}, r"expected beta to be a finite number in \(0, 1\], got 0"),
    ],
    ids=str,
)
def test_arguments_outside_their_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FAB(0.1, **options)
