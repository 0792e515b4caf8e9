"""The threat model: one place for norm, radius and bounds, and a new norm is one class."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import lsa_lightning
from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, Ball, Ensemble, GaussianNoise, Square, ThreatModel
from lsa_lightning.attacks.balls import BALLS, L2Ball, LinfBall, per_sample


def test_defaults_are_those_of_the_attacks() -> None:
    assert ThreatModel() == ThreatModel("Linf", 8 / 255, (0.0, 1.0)) == PGD().threat
    assert lsa_lightning.ThreatModel is ThreatModel


def test_values_are_normalised_so_that_equal_ones_are_equal() -> None:
    threat = ThreatModel("L2", 1, [-1, 1])  # type: ignore[arg-type]
    assert threat == ThreatModel("L2", 1.0, (-1.0, 1.0))
    assert (type(threat.eps), threat.bounds) == (float, (-1.0, 1.0))
    assert hash(threat) == hash(pickle.loads(pickle.dumps(threat)))


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ThreatModel().eps = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "L3"}, r"ThreatModel: expected norm to be one of \['Linf', 'L2'\], got 'L3'"),
        ({"eps": -0.1}, "expected eps to be a finite number >= 0, got -0.1"),
        ({"eps": math.nan}, "expected eps to be a finite number >= 0, got nan"),
        ({"eps": math.inf, "bounds": None}, "expected eps to be a finite number >= 0, got inf"),
        ({"eps": "0.1"}, "expected eps to be a finite number >= 0, got '0.1'"),
        ({"bounds": (1.0, 1.0)}, r"expected bounds to be \(low, high\) with low < high, or None, got \(1.0, 1.0\)"),
        ({"bounds": (0.0, math.nan)}, r"bounds\[1\] to be a finite number, got nan"),
        ({"bounds": (0.0, 0.5, 1.0)}, "with low < high"),
        ({"bounds": 1.0}, "expected bounds to be a list of at least one value or None, got 1.0"),
        ({"bounds": "01"}, "or None, got '01'"),
        ({"norm": ["L2"]}, r"ThreatModel: expected norm to be one of \['Linf', 'L2'\], got \['L2'\]"),
        ({"eps": 1.5}, r"expected eps <= 1, the Linf diameter of the bounds \(0.0, 1.0\), got 1.5"),
    ],
)
def test_arguments_outside_their_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreatModel(**options)


def test_the_l2_diameter_is_checked_when_the_number_of_coordinates_is_known() -> None:
    threat = ThreatModel("L2", 1.9)
    assert threat.diameter(4) == 2.0
    assert isinstance(threat.ball(torch.rand(3, 4)), L2Ball)
    with pytest.raises(ValueError, match=r"expected eps <= 1\.732, the L2 diameter of the bounds"):
        threat.ball(torch.rand(3, 3))


def test_without_bounds_there_is_no_diameter() -> None:
    assert ThreatModel(eps=100.0, bounds=None).diameter(4) == math.inf
    assert isinstance(ThreatModel(eps=100.0, bounds=None).ball(torch.rand(3, 4)), LinfBall)


def test_an_attack_reads_its_threat_model() -> None:
    attack = PGD(0.5, norm="L2", bounds=None).with_eps(0.25)
    assert attack.threat == ThreatModel("L2", 0.25, None)
    assert (attack.norm, attack.eps, attack.bounds) == ("L2", 0.25, None)


@pytest.fixture
def l1_ball() -> Iterator[type[Ball]]:
    """A norm of a user's own, as one class."""

    class L1Ball(Ball):
        norm = "L1"

        @staticmethod
        def norm_of_ones(coordinates: float) -> float:
            return coordinates

        def project(self, points: Tensor) -> Tensor:
            delta = (points - self.x).flatten(1)
            falling = delta.abs().sort(dim=1, descending=True).values
            excess = (falling.cumsum(1) - self.eps) / torch.arange(1, falling.shape[1] + 1)
            threshold = excess.gather(1, ((falling > excess).sum(1) - 1).clamp_min(0)[:, None]).clamp_min(0)
            nearest = delta.sign() * (delta.abs() - threshold).clamp_min(0) * (1 - 1e-6)
            moved = self.x + nearest.view_as(self.x)
            return moved if self.bounds is None else moved.clamp(*self.bounds)

        def random_point(self, generator: torch.Generator) -> Tensor:
            return self.project(self.x + self.eps * torch.empty_like(self.x).normal_(generator=generator))

        def boundary_point(self, generator: torch.Generator) -> Tensor:
            direction = torch.empty_like(self.x).normal_(generator=generator)
            return self.project(self.x + self.eps * direction / per_sample(direction.abs().flatten(1).sum(1), self.x))

        def ascend(self, points: Tensor, gradient: Tensor, alpha: float | Tensor) -> Tensor:
            largest = per_sample(gradient.abs().flatten(1).amax(1), gradient)
            return self.project(points + alpha * gradient.sign() * (gradient.abs() == largest))

    yield L1Ball
    del BALLS["L1"]


def linear(x: Tensor) -> Tensor:
    """Three classes, of which the last two ask for the second and third coordinate."""
    return x @ torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.usefixtures("l1_ball")
@pytest.mark.parametrize(
    "make", [FGSM, lambda **o: PGD(steps=5, seed=0, **o), lambda **o: APGD(steps=10, seed=0, **o), GaussianNoise]
)
def test_attacks_work_in_a_new_norm(make: Any) -> None:
    attack: Attack = make(eps=0.5, norm="L1", bounds=(-1.0, 1.0))
    x, y = 0.2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(20, dtype=torch.long)
    lengths = (attack(linear, x, y) - x).abs().sum(1)
    assert float(lengths.max()) <= 0.5
    assert float(lengths.min()) > 0


@pytest.mark.usefixtures("l1_ball")
def test_one_step_in_l1_moves_the_coordinate_that_counts_most() -> None:
    x_adv = FGSM(0.5, norm="L1", bounds=None)(linear, torch.zeros(1, 3), torch.tensor([0]))
    torch.testing.assert_close(x_adv, torch.tensor([[0.0, 0.5, 0.0]]))


@pytest.mark.usefixtures("l1_ball")
def test_the_diameter_of_a_new_norm_limits_eps() -> None:
    with pytest.raises(ValueError, match=r"expected eps <= 3, the L1 diameter of the bounds \(0.0, 1.0\), got 3.5"):
        FGSM(3.5, norm="L1")(linear, torch.rand(2, 3), torch.tensor([0, 1]))


@pytest.mark.usefixtures("l1_ball")
@pytest.mark.parametrize("make", [Square, Ensemble])
def test_square_names_the_norms_that_it_has_a_search_for(make: Any) -> None:
    with pytest.raises(ValueError, match=r"Square: expected norm to be one of \['Linf', 'L2'\], got 'L1'"):
        make(0.5, norm="L1")
