"""Accuracy over attacks times eps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD, Attack
from lsa_lightning.attacks.threat import Ball
from lsa_lightning.evaluation import RobustnessTable, evaluate_robustness

RADII = [0.2, 0.5, 1.0]


class Sign(nn.Module):
    """One logit: the first coordinate. A point falls to FGSM if and only if its margin is below eps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) @ self.weight


def points() -> tuple[Tensor, Tensor]:
    """20 points, all classified correctly, with margins 0.05, 0.15, ..., 0.95 on either side."""
    margins = torch.arange(10) / 10 + 0.05
    x = torch.stack([torch.cat([margins, -margins]), torch.zeros(20)], dim=1)
    return x, torch.tensor([1] * 10 + [0] * 10)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    x, y = points()
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def fgsm() -> FGSM:
    return FGSM(eps=0.1, bounds=None)


def test_accuracy_is_the_share_of_points_with_a_larger_margin() -> None:
    table = evaluate_robustness(Sign(), batches(20), {"fgsm": fgsm()}, RADII)
    assert table.eps == [0.0, *RADII]
    assert table.accuracy == {"fgsm": [100.0, 80.0, 50.0, 0.0]}
    assert table.samples == 20


def test_batches_of_unequal_size_count_by_samples() -> None:
    whole = evaluate_robustness(Sign(), batches(20), {"fgsm": fgsm()}, RADII)
    assert evaluate_robustness(Sign(), batches(1, 3, 16), {"fgsm": fgsm()}, RADII) == whole


def test_wrong_predictions_lower_the_clean_column_of_every_attack() -> None:
    x, y = points()
    y[:5] = 0
    table = evaluate_robustness(Sign(), [(x, y)], {"fgsm": fgsm(), "pgd": PGD(0.1, bounds=None)}, [0.001])
    assert [row[0] for row in table.accuracy.values()] == [75.0, 75.0]


def test_radii_are_sorted_and_counted_once() -> None:
    table = evaluate_robustness(Sign(), batches(20), {"fgsm": fgsm()}, [0.5, 0.25, 0.5])
    assert table.eps == [0.0, 0.25, 0.5]
    assert len(table.accuracy["fgsm"]) == 3


def test_max_batches_limits_the_samples() -> None:
    assert evaluate_robustness(Sign(), batches(4, 4, 12), {"fgsm": fgsm()}, RADII, max_batches=2).samples == 8


class Recorder(Attack):
    """Leaves inputs alone and remembers with which eps it was used."""

    seen: list[float]

    def __init__(self, eps: float) -> None:
        super().__init__(eps, bounds=None)
        self.seen = []

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        self.seen.append(self.eps)
        return x


def test_each_attack_runs_once_per_radius_and_batch() -> None:
    attack = Recorder(0.3)
    evaluate_robustness(Sign(), batches(10, 10), {"recorder": attack}, RADII)
    assert attack.seen == [*RADII, *RADII]
    assert attack.eps == 0.3


def test_several_classes_and_dict_batches() -> None:
    x = torch.eye(3)
    batch = {"image": x, "label": torch.tensor([0, 1, 0])}
    table = evaluate_robustness(nn.Identity(), [batch], {"fgsm": fgsm()}, [0.4, 0.6])
    assert table.accuracy["fgsm"] == pytest.approx([200 / 3, 200 / 3, 0.0])


def test_the_model_is_left_as_it_was() -> None:
    model = Sign()
    model.train()
    model.dropout.eval()
    evaluate_robustness(model, batches(20), {"fgsm": fgsm()}, RADII)
    assert model.training
    assert not model.dropout.training
    assert model.weight.grad is None


def test_own_batch_function() -> None:
    x, y = points()
    table = evaluate_robustness(Sign(), [(y, x)], {"fgsm": fgsm()}, [0.25], batch_fn=lambda batch: (batch[1], batch[0]))
    assert table.accuracy["fgsm"][0] == 100.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": {}}, "expected at least one attack"),
        ({"eps": []}, "at least one eps"),
        ({"eps": [0.0, 0.1]}, "each > 0"),
        ({"eps": [-0.1]}, "each > 0"),
        ({"max_batches": 0}, "max_batches >= 1"),
        ({"dataloader": []}, "got an empty one"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"dataloader": batches(20), "attacks": {"fgsm": fgsm()}, "eps": RADII, **arguments}
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(Sign(), **given)


TABLE = RobustnessTable([0.0, 0.1], {"fgsm": [90.0, 60.5], "pgd": [90.0, 40.0]}, 8)


def test_the_score_is_the_sum_over_the_columns() -> None:
    assert TABLE.rg_score == {"fgsm": 150.5, "pgd": 130.0}


def test_to_dict_holds_everything() -> None:
    assert TABLE.to_dict() == {
        "eps": [0.0, 0.1],
        "accuracy": {"fgsm": [90.0, 60.5], "pgd": [90.0, 40.0]},
        "rg_score": {"fgsm": 150.5, "pgd": 130.0},
        "samples": 8,
    }


def test_to_dataframe_has_a_row_per_attack_and_eps() -> None:
    frame = TABLE.to_dataframe()
    assert list(frame.columns) == ["attack", "eps", "accuracy"]
    assert frame.to_numpy().tolist() == [
        ["fgsm", 0.0, 90.0],
        ["fgsm", 0.1, 60.5],
        ["pgd", 0.0, 90.0],
        ["pgd", 0.1, 40.0],
    ]


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.samples = 9  # type: ignore[misc]


def test_intervals_are_wilsons_around_each_accuracy() -> None:
    table = evaluate_robustness(Sign(), batches(20), {"fgsm": fgsm()}, RADII)
    lows_and_highs = table.intervals["fgsm"]
    assert lows_and_highs[2] == pytest.approx((29.93, 70.07), abs=0.01)
    for (low, high), accuracy in zip(lows_and_highs, table.accuracy["fgsm"], strict=True):
        assert low <= accuracy <= high
    assert lows_and_highs[0][1] == 100
    assert lows_and_highs[0][0] < 90
