"""Robust radii of points in the plane, between two bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning import RobustnessEvaluation
from lsa_lightning.attacks import FGSM, PGD, InputSpace
from lsa_lightning.evaluation import PlaneGrid, correct
from lsa_lightning.models import MLP


class Disc(nn.Module):
    """Class 1 inside of the circle of radius 1 around the origin."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x.square().sum(1, keepdim=True)


class Thirds(nn.Module):
    """Class 0 left of -1, class 2 right of 1, class 1 between."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0] - 1, torch.zeros(len(x)), x[:, 0] - 1], dim=1)


def points() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(200, 2) * 3 - 1.5
    return x, (x.square().sum(1) < 1).long()


def to_the_circle(x: Tensor, norm: str) -> Tensor:
    """The distance of points inside to the circle: in Linf, along a diagonal."""
    x = x.double().abs()
    if norm == "L2":
        return 1 - x.norm(dim=1)
    total = x.sum(1)  # (a + r)^2 + (b + r)^2 = 1
    return (-total + (total.square() - 2 * (x.square().sum(1) - 1)).sqrt()) / 2


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_radius_lies_between_the_bounds(norm: str) -> None:
    x, y = points()
    inside = y == 1
    low, high = PlaneGrid(0.1, 5, norm=norm).radii(Disc(), x, y, reach=2.0)
    radius = to_the_circle(x[inside], norm)
    assert bool(((low[inside] <= radius) & (radius <= high[inside])).all())
    assert float((high - low).max()) < 3 * 0.1 / 2**5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_upper_bound_is_the_distance_of_a_point_of_another_class(norm: str) -> None:
    torch.manual_seed(1)
    net, x = MLP(), torch.randn(300, 2)
    y = (net(x).flatten() > 0).long()
    grid = PlaneGrid(0.05, 4, norm=norm)
    low, high = grid.radii(net, x, y, reach=0.6)
    for eps in (0.2, 0.6):
        attack = PGD(eps, steps=20, norm=norm, bounds=None, best="success", seed=0)
        fooled = ~correct(net, attack(net, x, y), y)
        assert not bool((fooled & (low > eps)).any())  # else the lower bound is wrong
        assert int((~fooled & (high <= eps)).sum()) <= 3  # nor is the upper one below what PGD finds, but for a few


def test_wrong_points_have_radius_zero() -> None:
    x, y = points()
    low, high = PlaneGrid(0.1).radii(Disc(), x, 1 - y, reach=0.5)
    assert float(low.max()) == float(high.max()) == 0


def test_what_is_beyond_reach_is_not_found() -> None:
    low, high = PlaneGrid(0.1).radii(Disc(), torch.zeros(1, 2), torch.tensor([1]), reach=0.4)
    assert low.tolist() == high.tolist() == [torch.inf]


def test_several_classes() -> None:
    x, y = torch.tensor([[-1.5, 0.0], [0.5, 2.0], [1.25, -1.0]]), torch.tensor([0, 1, 2])
    low, high = PlaneGrid(0.1, 6).radii(Thirds(), x, y, reach=1.0)
    for bound in (low, high):
        torch.testing.assert_close(bound, torch.tensor([0.5, 0.5, 0.25]).double(), atol=0.01, rtol=0)


def test_what_lies_beyond_the_bounds_does_not_count() -> None:
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    assert PlaneGrid(0.1, bounds=(0.0, 1.0)).radii(Thirds(), x, y, reach=3.0)[0].tolist() == [torch.inf]
    assert PlaneGrid(0.1, bounds=None).radii(Thirds(), x, y, reach=3.0)[0].isfinite().all()


def test_an_island_smaller_than_a_cell_is_seen_by_the_points_in_it() -> None:
    class Island(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.02 - (x - 0.05).abs().amax(1, keepdim=True)

    low, high = PlaneGrid(0.1, 3).radii(Island(), torch.tensor([[0.05, 0.05]]), torch.tensor([1]), reach=0.5)
    assert low.tolist() == [0.0]
    assert high.tolist() == pytest.approx([0.05])


def test_normalised_batches_are_measured_in_pixels() -> None:
    x, y = points()
    space = InputSpace(mean=[0.1, -0.2], std=[2.0, 0.5])
    mean, std = torch.tensor([0.1, -0.2]), torch.tensor([2.0, 0.5])

    class Normalised(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return Disc()(z * std + mean)

    plain = PlaneGrid(0.1, 3).radii(Disc(), x, y, reach=0.5)
    same = PlaneGrid(0.1, 3, input_space=space).radii(Normalised(), (x - mean) / std, y, reach=0.5)
    for one, other in zip(plain, same, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_the_row_lies_between_its_bounds_and_below_every_attack() -> None:
    torch.manual_seed(0)
    net, x = MLP(), torch.randn(400, 2)
    y = (net(x).flatten() + 0.02 * torch.randn(400) > 0).long()
    attacks = {"fgsm": FGSM(0.1, bounds=None), "pgd": PGD(0.1, steps=20, bounds=None, best="success", seed=0)}
    evaluation = RobustnessEvaluation(attacks, [0.1, 0.3], exact=PlaneGrid(0.02))
    table = evaluation.run(net, [(x, y)])
    assert table == evaluation.run(net, list(zip(x.split(150), y.split(150), strict=True)))
    assert list(table.accuracy) == ["fgsm", "pgd", "exact"]
    assert table.accuracy["exact"][0] == table.accuracy["pgd"][0] == table.at_most["exact"][0]
    for exact, pgd, most in zip(table.accuracy["exact"], table.accuracy["pgd"], table.at_most["exact"], strict=True):
        assert exact <= pgd
        assert exact <= most <= exact + 1
    assert table.accuracy["exact"][1] < table.accuracy["exact"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0}, "expected step to be a finite number > 0, got 0"),
        ({"halvings": -1}, "expected halvings to be an integer >= 0, got -1"),
        ({"norm": "L7"}, r"expected norm to be one of \['Linf', 'L2'\], or evaluation.exact=null, got 'L7'"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaneGrid(**arguments)  # type: ignore[arg-type]


def test_inputs_must_lie_in_a_plane_that_the_grid_can_cover() -> None:
    y = torch.zeros(1).long()
    with pytest.raises(ValueError, match=r"expected points in the plane, \[N, 2\], got inputs \(1, 3\)"):
        PlaneGrid().radii(Disc(), torch.zeros(1, 3), y, reach=1.0)
    with pytest.raises(ValueError, match=r"at most 25,000,000 nodes as far as .* got step=0\.0001"):
        PlaneGrid(1e-4).radii(Disc(), torch.zeros(1, 2), y, reach=1.0)


def test_no_attack_may_have_the_name_of_the_row() -> None:
    with pytest.raises(ValueError, match="expected attacks to be called otherwise than 'exact'"):
        RobustnessEvaluation({"exact": FGSM()}, [0.1], exact=PlaneGrid())
