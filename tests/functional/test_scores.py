from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from lsa_lightning.functional import robustness_generalization_score, t_interval, wilson_interval


@pytest.mark.parametrize(
    ("row", "score"),
    [
        ([97.07, 93.63, 82.5, 76.83, 63.79, 52.35], 466.17),
        ([98.82, 82.1, 47.2, 17.87, 6.96, 4.25], 257.2),
        ([83.55, 75.32, 73.35, 52.36, 46.01], 330.59),
    ],
)
def test_robustness_generalization_score_of_the_papers_rows(row: list[float], score: float) -> None:
    assert robustness_generalization_score(row) == pytest.approx(score)
    assert robustness_generalization_score(iter(row)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("call", "expected", "got"),
    [
        (lambda: robustness_generalization_score([]), "a list of at least one value", r"\[\]"),
        (lambda: robustness_generalization_score([50.0, 100.5]), r"in \[0, 100\]", "100.5"),
        (lambda: robustness_generalization_score([-1.0]), r"in \[0, 100\]", "-1.0"),
        (lambda: robustness_generalization_score([math.nan]), r"in \[0, 100\]", "nan"),
    ],
)
def test_value_errors_name_expected_and_got(call: Callable[[], Any], expected: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{expected}.*got .*{got}"):
        call()


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_interval_is_that_of_scipy(counts: tuple[int, int], confidence: float) -> None:
    hits, samples = counts
    expected = binomtest(hits, samples).proportion_ci(confidence, method="wilson")
    assert wilson_interval(hits, samples, confidence) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=1e-6
    )


@pytest.mark.parametrize(("hits", "samples", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 1.0)])
def test_wilson_interval_refuses_impossible_counts(hits: int, samples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"wilson_interval: expected (hits|samples|confidence) to be"):
        wilson_interval(hits, samples, confidence)


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=8).filter(lambda v: max(v) - min(v) > 1e-3),
    st.floats(0.5, 0.99),
)
def test_t_interval_is_that_of_scipy(values: list[float], confidence: float) -> None:
    expected = ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert t_interval(iter(values), confidence) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


def test_t_interval_of_equal_values_is_a_point() -> None:
    assert t_interval([97.5, 97.5, 97.5]) == (97.5, 97.5)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf]])
def test_t_interval_needs_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="t_interval: expected"):
        t_interval(values)
