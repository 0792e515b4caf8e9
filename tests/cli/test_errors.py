"""Errors of others, in one line."""

from __future__ import annotations

import pytest
from submitit.core.utils import UncompletedJobError

from lsa_lightning.cli.errors import explained


@pytest.mark.parametrize(
    "stream", ["Error stream produced:\n----\nTraceback", "No error stream produced. Look at stdout: /o\n----\nlines"]
)
def test_of_a_job_that_ended_without_a_result_what_it_printed_is_left_out(stream: str) -> None:
    head = "Job 7 (task: 0) with path /s/7_0_result.pkl\nhas no output (state: CANCELLED)"
    assert explained(UncompletedJobError(f"{head}\n{stream}"), "train", []) == (
        "Job 7 (task: 0) with path /s/7_0_result.pkl has no output (state: CANCELLED); what it printed lies beside "
        "that file, and the same command goes on with the sweep"
    )
