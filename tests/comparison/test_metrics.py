"""What is compared, and what several seeds say about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from lsa_lightning.comparison.metrics import CLEAN, Metric, Spread, headline, measured, training_eps
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.summary import RunSummary

ROWS = {"fgsm": [90.0, 70.0, 50.0], "pgd": [90.0, 65.0, 40.0]}


def run(training_eps: float | None = 0.3, norm: str | None = "Linf", **config: Any) -> Run:
    table = RobustnessTable([0.0, 0.1, 0.3], ROWS, 100, training_eps, norm=norm)
    return Run(Path("/x"), config, RunSummary("moon", 0, {}, 1, 1.0, evaluation=table), {})


def test_a_spread_has_the_sample_standard_deviation_and_students_interval() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    expected = ttest_1samp([1.0, 2.0, 6.0], 0.0).confidence_interval(0.95)
    assert spread[:3] == (3, 3.0, pytest.approx(7.0**0.5))
    assert spread.interval == pytest.approx((expected.low, expected.high))
    assert spread.half == pytest.approx(expected.high - 3.0)


def test_a_spread_of_multiples_is_the_multiple_of_the_spread() -> None:
    values = [1.0, 2.0, 6.0]
    n, mean, std, interval = Spread.of(values).times(2.0)
    expected = Spread.of([2 * value for value in values])
    assert (n, mean, std) == (3, expected.mean, pytest.approx(expected.std))
    assert interval == pytest.approx(expected.interval)
    assert Spread.of([2.0]).times(3.0) == (1, 6.0, None, None)


def test_a_single_value_has_no_interval() -> None:
    spread = Spread.of([2.0])
    assert spread == (1, 2.0, None, None)
    assert spread.half is None
    assert math.isnan(spread.half_or_nan)


def test_a_run_has_the_metrics_of_its_summary() -> None:
    found = {metric.name: value for metric, value in measured(run()).items()}
    summary = run().summary.metrics
    assert found == {key: value for key, value in summary.items() if key.startswith(("accuracy", "rg_score"))}
    assert next(iter(measured(run()))) == CLEAN


def test_a_run_without_an_evaluation_has_none() -> None:
    bare = Run(Path("/x"), {}, RunSummary("moon", 0, {}, 1, 1.0), {})
    assert measured(bare) == {}
    assert headline([bare]) == []


def titles(*runs: Run) -> list[str]:
    return [metric.title for metric in headline(runs)]


def test_the_main_metrics_are_those_at_the_radius_of_training() -> None:
    assert titles(run()) == [
        "clean accuracy",
        *(f"accuracy under {attack}, eps 0.3" for attack in ROWS),
        *(f"R&G under {attack}" for attack in ROWS),
    ]
    assert "accuracy under fgsm, eps 0.1" in titles(run(), run(0.1))


def test_a_run_of_before_tells_its_radius_by_its_threat() -> None:
    old = run(None, threat={"eps": 0.1}, callbacks={"atlr": {"attack": {"steps": 3}}})
    assert "accuracy under pgd, eps 0.1" in titles(old)
    assert training_eps(old) == 0.1
    assert titles(run(None)) == ["clean accuracy", "R&G under fgsm", "R&G under pgd"]


def test_clean_training_has_no_radius_but_that_of_its_threat_model_to_look_at() -> None:
    clean = run(None, threat={"eps": 0.1}, callbacks={"checkpoint": {}, "gone": None})
    assert "accuracy under pgd, eps 0.1" in titles(clean)
    assert training_eps(clean) is None
    assert training_eps(run()) == 0.3


def test_metrics_in_other_norms_or_at_other_radii_are_others() -> None:
    assert headline([run(norm="Linf")])[1:] != headline([run(norm="L2")])[1:]
    score = Metric("pgd", (0.0, 0.1), True, "L2")
    assert (score.name, score.circumstances) == ("rg_score/pgd", "eps 0, 0.1 in L2")
    assert score != Metric("pgd", (0.0, 0.2), True, "L2")


def test_a_run_of_before_tells_its_norm_by_its_attack() -> None:
    old = run(norm=None, threat={"eps": 0.3}, attack={"norm": "Linf"})
    assert headline([old]) == headline([run()])
    unknown = run(norm=None, threat={"norm": "Linf", "eps": 0.3}, attack={"norm": "Linf"})  # attacks of several norms
    assert {metric.norm for metric in headline([unknown])} == {None}
