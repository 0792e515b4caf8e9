"""The table of accuracies, and what is derived from it."""

from __future__ import annotations

import dataclasses

import pytest
from matplotlib.figure import Figure

from lsa_lightning.evaluation import Ceiling, RobustnessTable

TABLE = RobustnessTable([0.0, 0.1], {"fgsm": [90.0, 60.5], "pgd": [90.0, 40.0]}, 8)


def test_the_score_is_the_sum_over_the_columns() -> None:
    assert TABLE.rg_score == {"fgsm": 150.5, "pgd": 130.0}


def test_to_dict_holds_everything() -> None:
    assert TABLE.to_dict() == {
        "eps": [0.0, 0.1],
        "accuracy": {"fgsm": [90.0, 60.5], "pgd": [90.0, 40.0]},
        "intervals": {name: [list(ends) for ends in row] for name, row in TABLE.intervals.items()},
        "rg_score": {"fgsm": 150.5, "pgd": 130.0},
        "rg_eps": None,
        "training_eps": None,
        "norm": None,
        "samples": 8,
        "at_most": {},
        "ceiling": None,
    }


def test_to_dataframe_has_a_row_per_attack_and_eps() -> None:
    frame = TABLE.to_dataframe()
    assert list(frame.columns) == ["attack", "eps", "training", "accuracy", "low", "high", "at_most"]
    assert frame.at_most.isna().all()
    ends = [*TABLE.intervals["fgsm"], *TABLE.intervals["pgd"]]
    assert [tuple(row) for row in frame[["low", "high"]].to_numpy()] == ends
    assert frame[["attack", "eps", "accuracy"]].to_numpy().tolist() == [
        ["fgsm", 0.0, 90.0],
        ["fgsm", 0.1, 60.5],
        ["pgd", 0.0, 90.0],
        ["pgd", 0.1, 40.0],
    ]


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.samples = 9  # type: ignore[misc]


TRAINED = RobustnessTable([0.0, 0.1, 0.25], {"pgd": [90.0, 40.0, 20.0]}, 8, 0.25, [0.0, 0.1], "L2")
"""Trained at a radius that R&G is not summed over."""


def test_the_score_leaves_out_the_column_of_training_alone() -> None:
    assert TRAINED.rg_score == {"pgd": 130.0}
    assert dataclasses.replace(TRAINED, rg_eps=None).rg_score == {"pgd": 150.0}


def test_the_row_of_the_training_radius_is_marked() -> None:
    assert TRAINED.to_dataframe()["training"].tolist() == [False, False, True]
    assert not TABLE.to_dataframe()["training"].any()


BOUNDED = RobustnessTable(
    [0.0, 0.1],
    {"pgd": [90.0, 60.0], "exact": [90.0, 58.0]},
    50,
    at_most={"exact": [90.0, 59.0]},
    ceiling=Ceiling([0.0, 0.1], [100.0, 80.0], [0.0, 0.1], 175.0, 50),
)
"""With what comes from no attack."""


def test_what_comes_from_no_attack_is_in_the_rows() -> None:
    frame = BOUNDED.to_dataframe()
    assert frame.attack.tolist() == ["pgd", "pgd", "exact", "exact", "ceiling", "ceiling"]
    assert frame.at_most.tolist()[2:4] == [90.0, 59.0]
    assert frame.accuracy.tolist()[4:] == [100.0, 80.0]
    assert frame[["low", "high"]].isna().all(axis=1).tolist() == [False] * 4 + [True] * 2
    assert BOUNDED.rg_score == {"pgd": 150.0, "exact": 148.0}
    assert labels_of(BOUNDED.plot()) == [
        "pgd, R&G 150.00 of 200",
        "exact, R&G 148.00 of 200",
        "ceiling at each eps; R&G at most 175.00 of 200",
    ]


@pytest.mark.parametrize("table", [TABLE, TRAINED, BOUNDED])
def test_a_table_comes_back_from_its_dict(table: RobustnessTable) -> None:
    assert RobustnessTable.from_dict(table.to_dict()) == table


def test_a_table_of_an_older_file_has_no_training_radius() -> None:
    old = {"eps": [0.0, 0.1], "accuracy": TABLE.accuracy, "samples": 8, "rg_score": TABLE.rg_score}
    assert RobustnessTable.from_dict(old) == TABLE


def test_missing_entries_are_named() -> None:
    with pytest.raises(ValueError, match="expected the entries of a RobustnessTable, found no accuracy, samples"):
        RobustnessTable.from_dict({"eps": [0.0]})


def labels_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_figure_has_scores_norm_and_the_radius_of_training() -> None:
    assert labels_of(TABLE.plot()) == ["fgsm, R&G 150.50 of 200", "pgd, R&G 130.00 of 200"]
    figure = TRAINED.plot()
    assert labels_of(figure) == ["pgd: 20.00 % at eps 0.25, R&G 130.00 of 200"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["training eps 0.25"]
    assert figure.axes[0].get_xlabel() == "eps (L2)"
    assert TRAINED.plot("inputs in [0, 1]").axes[0].get_xlabel() == "eps (L2, inputs in [0, 1])"
