"""How far a long piece of work is: a bar with the time left on a terminal, and lines of the log for everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from operator import length_hint
from types import TracebackType
from typing import Any, TypeVar

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column

SECONDS_BETWEEN_LINES = 30.0
"""A long piece of work is silent for about so long."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class Progress:
    """Steps of a piece of work, shown while it is done; in a distributed run by the first process alone.

    On a terminal, the error stream has a bar, which is gone at the end. Python's log gets a line at the beginning, one
    every :data:`SECONDS_BETWEEN_LINES` at most, and one at the end, all of level INFO, so that a program that does not
    ask for them (``logging.basicConfig(level="INFO")``) has none.

    Args:
        label: what is done, such as ``"Evaluating"``.
        total: number of steps; None: not known, and then no time left either.
        shown: whether to show anything; None: the bar where the error stream is a terminal, the lines always.

    Example:
        >>> with Progress("Counting", total=2) as progress:
        ...     progress.advance()
        ...     progress.advance()
        >>> progress.done
        2
    """

    def __init__(self, label: str, total: int | None, shown: bool | None = None) -> None:
        self.label = label
        self.total = total
        self.done: float = 0
        self._counted: float = 0
        self._silent = shown is False or not is_first_process()
        text = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=30))
        left = TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, width=15, justify="right"))
        self._bar = bar_of(text, BarColumn(None), TaskProgressColumn(), TimeElapsedColumn(), left, shown=shown)

    def __enter__(self) -> Progress:
        self._began = self._counting = self._said = time.monotonic()
        self._task = self._bar.add_task(self.label, total=self.total, left="")
        self._bar.start()
        self._say(self.label)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()
        seconds = duration(time.monotonic() - self._began)
        self._say(f"{self.label}: done in {seconds}" if kind is None else f"{self.label}: stopped after {seconds}")

    def advance(self, steps: float = 1) -> None:
        """So many steps are done."""
        self._counted += steps
        self._show(self.done + steps)

    def over(self, items: Iterable[T], steps: int = 1) -> Iterator[T]:
        """The same items, each of which is so many steps, that are done when the next one is asked for."""
        for item in items:
            yield item
            self.advance(steps)

    def recall(self, done: int) -> None:
        """As many steps in all are done; some by an earlier run, so that the time left is estimated anew."""
        self._counting, self._counted = time.monotonic(), 0
        self._show(done)

    @property
    def seconds_left(self) -> float | None:
        """If the other steps take as long as those done here; None where nothing is known yet."""
        if self.total is None or self._counted == 0:
            return None
        return (time.monotonic() - self._counting) / self._counted * (self.total - self.done)

    def _show(self, done: float) -> None:
        self.done = done
        left = time_left(self.seconds_left)
        self._bar.update(self._task, completed=done, left=left)
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            share = f"step {done}" if self.total is None else f"{done / self.total:.0%}"
            self._say(f"{self.label}: {', '.join(filter(None, (share, left)))}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if not self._silent:
            say(line, self._bar)


def bar_of(*columns: ProgressColumn, shown: bool | None) -> Bar:
    """A bar of one line on the error stream; None: if that is a terminal."""
    console = Console(stderr=True)
    terminal = console.is_terminal and not console.is_dumb_terminal
    return Bar(
        *columns,
        console=console,
        expand=True,
        transient=terminal,
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # else what is printed to a file would go to the terminal
        disable=not is_first_process() or not (terminal if shown is None else shown),
    )


def number_of_batches(dataloader: Iterable[Any], limit: int | None = None) -> int | None:
    """How many batches there are up to the limit, if the dataloader knows its length."""
    batches = length_hint(dataloader, -1)
    if batches < 0:
        return None
    return batches if limit is None else min(batches, limit)


def forward_passes(attack: object) -> int:
    """About how many forward passes an attack takes, by its ``steps`` and ``n_queries``; a gradient counts as two more.

    Example:
        >>> from lsa_lightning.attacks import FGSM, PGD, Square
        >>> [forward_passes(attack) for attack in (FGSM(), PGD(steps=20), Square(n_queries=100))]
        [3, 60, 100]
    """
    return getattr(attack, "n_queries", 3 * getattr(attack, "steps", 1))


def say(line: str, bar: Bar) -> None:
    """Log a line, marked as ``shown`` if the bar says the same on the terminal that the output goes to as well."""
    log.info(line, extra={"shown": not bar.disable and bar.console.is_terminal and sys.stdout.isatty()})


def is_first_process() -> bool:
    """Whether this is the first, or only, process of a run of Lightning's."""
    return getattr(rank_zero_only, "rank", 0) == 0


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))


def time_left(seconds: float | None) -> str:
    """In words; nothing if it is not known."""
    return "" if seconds is None else f"{duration(seconds)} left"
