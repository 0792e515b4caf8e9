"""Errors of others, in one line."""

from __future__ import annotations

import pytest
from submitit.core.utils import UncompletedJobError

from lsa_lightning.cli.errors import explained

HEAD = "Job 7 (task: 0) with path /s/7_0_result.pkl\nhas not produced any output (state: FAILED)"
DASHES = "-" * 40


@pytest.mark.parametrize(
    ("stream", "last"),
    [
        (f"\nError stream produced:\n{DASHES}\nTraceback\n  ...\nValueError: no\n", "ValueError: no"),
        (f"\nNo error stream produced. Look at stdout: /o\n{DASHES}\nlines\nthe end", "the end"),
        ("", None),
    ],
)
def test_of_a_job_that_ended_without_a_result_the_last_line_is_shown(stream: str, last: str | None) -> None:
    shown = "" if last is None else f", whose last line is {last!r}"
    assert explained(UncompletedJobError(f"{HEAD}{stream}"), "train", []) == (
        "Job 7 (task: 0) with path /s/7_0_result.pkl has not produced any output (state: FAILED)"
        f"{shown}; what it printed lies beside that file; the same command goes on"
    )
