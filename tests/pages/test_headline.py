"""What the page of a run says first."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.evaluation.ceiling import Ceiling
from lsa_lightning.functional import wilson_interval
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.pages.headline import WorstCase, masking_in_words
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.summary import RunSummary

ROWS = {"fgsm": [90.0, 81.0, 52.0], "pgd": [90.0, 82.0, 50.0]}
NO_SIGN, RAISED, UNFIT = MaskingFlag(False, ""), MaskingFlag(True, ""), MaskingFlag(None, "")


def worst_case(training_eps: float | None, ceiling: Ceiling | None = None, **config: object) -> WorstCase:
    table = RobustnessTable([0.0, 0.1, 0.3], ROWS, 100, training_eps, norm="Linf", ceiling=ceiling)
    found = WorstCase.of(Run(Path("/x"), config, RunSummary("moon", 0, {}, 1, 1.0, evaluation=table), {}))
    assert found is not None
    return found


def test_the_worst_case_is_the_lowest_row_at_the_radius_of_training() -> None:
    assert worst_case(0.1) == ("fgsm", "the training eps 0.1 (Linf)", 81.0, wilson_interval(81, 100), None)
    assert worst_case(0.3)[:3] == ("pgd", "the training eps 0.3 (Linf)", 50.0)


def test_of_equal_rows_it_is_the_exact_one_which_no_attack_can_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "exact", [90.0, 81.0, 49.0])
    assert worst_case(0.1).attack == worst_case(0.3).attack == "exact"
    monkeypatch.setitem(ROWS, "exact", [90.0, 81.5, 49.0])
    assert worst_case(0.1).attack == "fgsm"


def test_of_clean_training_it_is_at_the_radius_of_the_threat_model_or_the_largest() -> None:
    assert worst_case(None, threat={"eps": 0.1})[:3] == ("fgsm", "eps 0.1 (Linf)", 81.0)
    assert worst_case(None)[:3] == ("pgd", "the largest eps 0.3 (Linf)", 50.0)


def test_it_is_a_sentence_with_interval_and_distance_to_the_ceiling() -> None:
    ceiling = Ceiling([0.0, 0.1, 0.3], [100.0, 95.5, 80.0], [0.0, 0.1, 0.3], 270.0, 100)
    words = (
        "In the worst case at the training eps 0.1 (Linf), 81.00 % of the test samples stay right (fgsm, 95 % interval "
    )
    words += "{:.2f} to {:.2f})".format(*wilson_interval(81, 100))
    assert str(worst_case(0.1)) == f"{words}."
    assert str(worst_case(0.1, ceiling)) == f"{words}, 14.50 points below the ceiling of 95.50 %."


def test_a_run_that_was_not_evaluated_has_none() -> None:
    assert WorstCase.of(Run(Path("/x"), {}, RunSummary("moon", 0, {}, 1, 1.0), {})) is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "not checked"),
        ([NO_SIGN, UNFIT], "no flag raised; 1 of 2 checks apply"),
        ([RAISED, NO_SIGN], "1 flag raised; 2 of 2 checks apply"),
        ([RAISED, RAISED, UNFIT], "2 flags raised; 2 of 3 checks apply"),
    ],
)
def test_flags_are_counted_among_the_checks_that_apply(flags: list[MaskingFlag], words: str) -> None:
    assert masking_in_words({str(number): flag for number, flag in enumerate(flags)}) == words
