"""Bars on terminals, lines in the log, and the time left."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from torch.utils.data import DataLoader, IterableDataset

from lsa_lightning.utils import progress as module
from lsa_lightning.utils.progress import Progress, duration, number_of_batches


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, **options: Any) -> io.StringIO:
    """The error stream that bars are drawn on."""
    error = io.StringIO()
    console = Console(file=error, force_terminal=terminal, width=80, **options)
    monkeypatch.setattr(module, "Console", lambda **_: console)
    return error


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_bar_is_on_a_terminal_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, terminal: bool, shown: bool
) -> None:
    error = on_terminal(monkeypatch, terminal)
    with Progress("Evaluating", 4, asked) as progress:
        progress.advance()
    assert ("25%" in error.getvalue()) == shown
    assert bool(error.getvalue()) == shown


def test_a_terminal_that_cannot_move_its_cursor_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    error = on_terminal(monkeypatch, True, _environ={"TERM": "dumb"})
    with Progress("Evaluating", 4) as progress:
        progress.advance()
    assert error.getvalue() == ""


def test_the_bar_is_one_line_of_80_columns_however_long_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    error = on_terminal(monkeypatch, False)
    with Progress("one of the many checkpoints " * 5, 4, shown=True) as progress:
        progress.advance()
    (line,) = error.getvalue().splitlines()
    assert len(line) == 80
    assert "25%" in line
    assert line.rstrip().endswith("left")


def test_the_log_has_a_line_first_one_now_and_then_and_one_last(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("Analysing", 10) as progress:
        for seconds in (10, 10, 10, 20, 20):
            clock.now += seconds
            progress.advance()
    assert caplog.messages == [
        "Analysing",
        "Analysing: 30%, 0:01:10 left",
        "Analysing: 50%, 0:01:10 left",
        "Analysing: done in 0:01:10",
    ]


def test_without_a_total_the_log_counts_steps(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("Analysing", None) as progress:
        clock.now += 31
        progress.advance()
    assert caplog.messages[1] == "Analysing: step 1"


def test_after_an_error_the_log_does_not_say_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ZeroDivisionError), Progress("Analysing", 10):
        clock.now += 5 / 0
    assert caplog.messages == ["Analysing", "Analysing: stopped after 0:00:00"]


@pytest.mark.parametrize(("shown", "first"), [(False, True), (None, False), (True, False)])
def test_neither_bar_nor_lines_where_they_are_off_or_in_other_processes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shown: bool | None, first: bool
) -> None:
    error = on_terminal(monkeypatch, True)
    monkeypatch.setattr(module, "rank_zero_only", SimpleNamespace(rank=0 if first else 1))
    caplog.set_level(logging.INFO)
    with Progress("Analysing", 2, shown) as progress:
        progress.advance()
    assert error.getvalue() == ""
    assert caplog.messages == []


@pytest.mark.parametrize(("bar", "output", "marked"), [(True, True, True), (True, False, False), (False, True, False)])
def test_lines_are_marked_if_output_and_bar_go_to_the_terminal_both(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bar: bool, output: bool, marked: bool
) -> None:
    on_terminal(monkeypatch, bar)
    monkeypatch.setattr(sys, "stdout", Terminal() if output else io.StringIO())
    caplog.set_level(logging.INFO)
    with Progress("Analysing", 2):
        pass
    assert [record.shown for record in caplog.records] == [marked] * 2  # type: ignore[attr-defined]


def test_what_is_printed_to_a_file_does_not_go_to_the_terminal_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    error, output = on_terminal(monkeypatch, True), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    with Progress("Analysing", 2):
        sys.stdout.write("printed\n")
    assert output.getvalue() == "printed\n"
    assert "printed" not in error.getvalue()


def test_the_time_left_is_as_the_steps_so_far(clock: Clock) -> None:
    with Progress("Analysing", 10) as progress:
        assert progress.seconds_left is None
        clock.now += 6
        progress.advance(3)
        assert progress.seconds_left == pytest.approx(14)
        progress.recall(8)  # by an earlier run
        assert progress.seconds_left is None
        clock.now += 4
        progress.advance()
        assert progress.seconds_left == pytest.approx(4)


def test_items_pass_through_and_count(clock: Clock) -> None:
    with Progress("Analysing", 6) as progress:
        assert list(progress.over("abc", steps=2)) == ["a", "b", "c"]
        assert progress.done == 6


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("batches", "limit", "expected"),
    [([1, 2, 3], None, 3), ([1, 2, 3], 2, 2), ([1], 2, 1), (iter(()), 2, 0), ((x for x in "ab"), 2, None)],
)
def test_the_number_of_batches_up_to_the_limit(batches: Any, limit: int | None, expected: int | None) -> None:
    assert number_of_batches(batches, limit) == expected


def test_a_loader_of_unknown_length_has_no_number() -> None:
    assert number_of_batches(DataLoader(Endless())) is None


def test_more_than_a_day_is_said_in_days() -> None:
    assert duration(90061.6) == "1 day, 1:01:02"
