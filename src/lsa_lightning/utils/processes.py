"""Several things at once, on all processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing import get_all_start_methods, get_context
from typing import Any

Task = Callable[[], object]
"""What it leaves behind are files: what it changes in memory is lost where another process runs it."""


def run_all(tasks: Sequence[Task]) -> None:
    """Run every task once, shared out to as many processes as there are processors, of which this is one.

    Tasks must run neither torch on several threads nor anything on a GPU, which a process that was forked cannot. Where
    the system does not fork, this process runs them all.

    Raises:
        Exception: what a task raises. One that fails in another process is run again in this one, to raise it here.
    """
    number = max(1, min(_processors(), len(tasks)))
    own, *others = [tasks[first::number] for first in range(number)]
    context: Any = get_context("fork") if others else None
    workers = [context.Process(target=_run, args=(share,), daemon=True) for share in others]
    for worker in workers:
        worker.start()
    _run(own)
    for worker, share in zip(workers, others, strict=True):
        worker.join()
        if worker.exitcode != 0:
            _run(share)


def _run(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()


def _processors() -> int:
    """How many processes can run tasks; one where the system cannot fork, or a fork is not safe, as on macOS."""
    forks = "fork" in get_all_start_methods() and hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if forks else 1
