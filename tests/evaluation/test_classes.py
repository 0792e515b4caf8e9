"""Accuracy of each class, and what its samples are taken for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lsa_lightning.evaluation.classes import ClassTable
from lsa_lightning.functional import wilson_interval

Y = torch.tensor([0, 0, 0, 1, 1])
TABLE = ClassTable.of("pgd", "pgd, eps 0.3 (Linf)", Y, torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 2, 2, 1, 0]), 4)


def test_rows_are_classes_and_columns_predictions() -> None:
    assert TABLE.clean == [[2, 1, 0, 0], [0, 2, 0, 0], [0] * 4, [0] * 4]
    assert TABLE.adversarial == [[0, 1, 2, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert TABLE.samples == [3, 2, 0, 0]


def test_accuracies_have_wilson_intervals_and_classes_without_samples_none() -> None:
    clean, pgd = TABLE.accuracies.values()
    assert clean[0] == (pytest.approx(200 / 3), wilson_interval(2, 3))
    assert pgd[:2] == [(0.0, wilson_interval(0, 3)), (50.0, wilson_interval(1, 2))]
    assert all(math.isnan(accuracy) for accuracy, _ in pgd[2:])


def test_the_commonest_wrong_class() -> None:
    assert TABLE.taken_for == [2, 0, None, None]


def test_the_table_has_a_row_per_class_and_input() -> None:
    frame = TABLE.to_dataframe()
    assert list(frame.columns) == ["class", "input", "samples", "accuracy", "low", "high", "taken_for"]
    assert list(frame["input"]) == ["clean"] * 4 + ["pgd"] * 4
    assert frame[frame.input == "pgd"]["taken_for"].tolist()[:2] == [2, 0]
    assert frame[frame.input == "clean"]["taken_for"].isna().all()


def test_the_dictionary_is_read_back() -> None:
    assert ClassTable.from_dict(TABLE.to_dict()) == TABLE


@pytest.mark.parametrize(
    ("change", "message"),
    [({"clean": [[1]]}, r"expected counts of shape \[C, C\]"), ({"attack": ...}, "found no attack")],
)
def test_another_dictionary_is_refused(change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in {**TABLE.to_dict(), **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        ClassTable.from_dict(values)
