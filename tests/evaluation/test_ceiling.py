"""What no classifier exceeds on a sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lsa_lightning import MoonDataModule
from lsa_lightning.attacks import FGSM, InputSpace
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.evaluation import CeilingBound, PlaneGrid
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.runs.stages import EvaluationStage

RADII = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def most_right(x: Tensor, y: Tensor, eps: list[float], power: float) -> int:
    """The largest number of (sample, eps) that are right together, by trying for each sample every largest eps."""
    distances = torch.cdist(x.double(), x.double(), p=power).tolist()

    def fits(i: int, radius: float, right: list[int]) -> bool:
        others = (j for j in range(i) if y[i] != y[j] and right[j])
        return all(distances[i][j] > radius + eps[right[j] - 1] for j in others)

    def best(right: list[int]) -> int:  # of each sample so far, its smallest so many radii
        i = len(right)
        if i == len(x):
            return sum(right)
        return max(best([*right, n]) for n in range(len(eps) + 1) if n == 0 or fits(i, eps[n - 1], right))

    return best([])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("seed", range(5))
def test_of_two_classes_it_is_what_trying_everything_finds(seed: int, norm: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(7, 2, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    eps, power = [0.0, 0.1, 0.3], float("inf") if norm == "Linf" else 2.0
    ceiling = CeilingBound(norm=norm).of(x, y, eps)
    assert ceiling.rg_score == pytest.approx(100 * most_right(x, y, eps, power) / 7)
    assert ceiling.accuracy == pytest.approx([100 * most_right(x, y, [each], power) / 7 for each in eps])


@pytest.mark.parametrize("seed", range(5))
def test_of_more_classes_it_is_not_below_what_trying_everything_finds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(7, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    eps = [0.0, 0.1, 0.3]
    ceiling = CeilingBound().of(x, y, eps)
    assert 100 * most_right(x, y, eps, float("inf")) / 7 <= ceiling.rg_score + 1e-9
    assert ceiling.rg_score < 300
    for each, accuracy in zip(eps, ceiling.accuracy, strict=True):
        assert 100 * most_right(x, y, [each], float("inf")) / 7 <= accuracy + 1e-9


def test_where_every_ball_meets_all_others_the_largest_class_is_right() -> None:
    x, y = torch.rand(10, 4), torch.tensor([0, 1, 2, 2, 2, 2, 0, 1, 0, 1])
    assert CeilingBound().of(x, y, [0.5]).accuracy == [40.0]


def test_one_point_of_two_classes_cannot_be_right_twice() -> None:
    x = torch.zeros(2, 3)
    assert CeilingBound().of(x, torch.tensor([0, 1]), [0.0]).accuracy == [50.0]
    assert CeilingBound().of(x, torch.tensor([1, 1]), [0.0]).accuracy == [100.0]


def test_parts_give_a_bound_that_is_not_lower() -> None:
    data = MoonDataModule(test_size=500)
    data.setup()
    x, y = data.splits[2].tensors
    whole, parts = CeilingBound().of(x, y, RADII), CeilingBound(part=100).of(x, y, RADII)
    assert (whole.part, parts.part) == (500, 100)
    assert whole.rg_score < parts.rg_score < sum(parts.accuracy)
    assert all(a <= b for a, b in zip(whole.accuracy, parts.accuracy, strict=True))


def test_on_moon_no_classifier_exceeds_505() -> None:
    data = MoonDataModule()
    data.setup()
    x, y = data.splits[2].tensors
    ceiling = CeilingBound().of(x[:2000], y[:2000], RADII)
    assert ceiling.rg_score == pytest.approx(504.5)
    assert ceiling.accuracy == pytest.approx([100.0, 94.65, 90.25, 84.6, 79.75, 73.8])


def test_the_score_is_summed_over_its_columns_alone() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    ceiling = CeilingBound().of(x, y, [0.0, 0.4, 0.5], rg_eps=[0.0, 0.5])
    assert (ceiling.accuracy, ceiling.rg_score) == ([100.0, 100.0, 50.0], 150.0)


def test_batches_are_put_together() -> None:
    x, y = torch.rand(30, 2), torch.arange(30) % 2
    batches = list(zip(x.split(7), y.split(7), strict=True))
    assert CeilingBound().run(batches, [0.1, 0.2]) == CeilingBound().of(x, y, [0.1, 0.2])
    assert CeilingBound().run(batches, [0.1], limit_batches=2) == CeilingBound().of(x[:14], y[:14], [0.1])
    with pytest.raises(ValueError, match="expected a dataloader with at least one batch"):
        CeilingBound().run([], [0.1])


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="expected part to be an integer >= 1, got 0"):
        CeilingBound(part=0)
    with pytest.raises(ValueError, match=r"expected norm to be one of \['Linf', 'L2'\], or evaluation.ceiling=null"):
        CeilingBound(norm="L7")
    with pytest.raises(ValueError, match=r"expected rg_eps to be among eps, \[0.1\], got \[0.2\]"):
        CeilingBound().of(torch.rand(2, 2), torch.tensor([0, 1]), [0.1], rg_eps=[0.2])


def test_normalised_batches_are_measured_in_pixels() -> None:
    pixels, y = 255 * torch.rand(30, 2), torch.arange(30) % 2
    space, eps = InputSpace([127.0, 100.0], [64.0, 32.0]), [0.0, 8.0, 30.0]
    x = (pixels - space.mean) / space.std
    found = CeilingBound(input_space=space).of(x, y, eps)
    assert found == CeilingBound().of(space.to_pixels(x.double(), None), y, eps)
    assert 50 < found.accuracy[2] < found.accuracy[1] < 100
    assert "input_space=InputSpace" in repr(CeilingBound(input_space=space))


@pytest.mark.parametrize(
    "beside", [{"ceiling": CeilingBound()}, {"exact": PlaneGrid()}, {"masking": MaskingChecks(eps=0.1, bounds=None)}]
)
def test_beside_attacks_on_pixels_all_need_their_space(beside: dict[str, Any]) -> None:
    attack = InputSpace(0.5, 0.25)(FGSM(0.1, bounds=None))
    (name,) = beside
    for given in (attack, AttackOnLogits(attack, torch.nn.Identity())):
        with pytest.raises(ValueError, match=f"expected {name} to be one with the input_space that attacks have"):
            EvaluationStage({"fgsm": given}, [0.1], **beside)
