"""Several things at once, on all processors."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import current_process, get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NamedTuple

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

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
    """How many processes can run tasks; one where none can be forked, or others keep the processors busy already."""
    return len(os.sched_getaffinity(0)) if can_fork() and parent_process() is None else 1


def can_fork() -> bool:
    """Whether this process can fork others: not all systems can, nor is it safe on all, as on macOS."""
    forks = "fork" in get_all_start_methods() and hasattr(os, "sched_getaffinity")
    return forks and not current_process().daemon


def run_apart(tasks: Mapping[str, Task]) -> None:
    """Run each task in a process of its own, forked from this one, which waits.

    What the first task prints is seen at once; what the others print, when they have ended, in their order. Tasks must
    run neither torch on several threads nor anything on a GPU.

    Args:
        tasks: by their names in messages.

    Raises:
        Exception: the first that a task raises; the others are ended before, by SIGTERM.
        ChildProcessError: if a process ends otherwise, as by a signal; likewise.
    """
    workers: list[_Worker] = []
    try:
        with _Later() as later:  # a signal between two of them would end those alone that are known
            workers += [_started(name, task, not number, later) for number, (name, task) in enumerate(tasks.items())]
        outcomes = _outcomes(workers)
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        for worker in workers:
            worker.process.join()
    printed: set[str] = set()
    for outcome in outcomes:
        sys.stdout.write(outcome.output)
        new = [line for line in outcome.errors.splitlines(keepends=True) if line not in printed]
        sys.stderr.writelines(new)
        printed.update(new)


class RaisedElsewhereError(Exception):
    """What caused an error that another process raised.

    Args:
        trace: its traceback.

    Attributes:
        places: file and line of each frame of it.
    """

    def __init__(self, trace: str, places: Sequence[tuple[str, int | None]]) -> None:
        super().__init__(trace)
        self.places = places


class _Outcome(NamedTuple):
    """What a task left: what it printed, and the error that ended it, with its traceback."""

    output: str
    errors: str
    error: Exception | None
    trace: str
    places: list[tuple[str, int | None]]


@dataclass(frozen=True)
class _Worker:
    """A process, and where its outcome arrives."""

    process: Any
    receiver: Connection

    def outcome(self) -> _Outcome:
        """What has arrived; raises what ended the process."""
        try:
            outcome: _Outcome = self.receiver.recv()
        except EOFError:
            self.process.join()
            status = self.process.exitcode
            how = f"exited with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
            hint = "; if memory ran out, run fewer at once" if status == -signal.SIGKILL else ""
            msg = f"the process of {self.process.name} {how}{hint}"
            raise ChildProcessError(msg) from None
        if outcome.error is not None:
            sys.stdout.write(outcome.output)
            sys.stderr.write(outcome.errors)
            raise outcome.error from RaisedElsewhereError(outcome.trace, outcome.places)
        return outcome


class _Later:
    """Inside, signals to end this process wait: an error that a handler raises within a fork is lost.

    A mask would not do, as another thread may take the signal. Only a main thread has handlers.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._former: dict[int, Any] = {}

    def __enter__(self) -> _Later:
        if current_thread() is main_thread():
            self._former = {signum: signal.signal(signum, self._wait) for signum in _ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        self.now()

    def now(self) -> None:
        """Signals do again what they did before, and so does one that has waited; also in a process forked inside."""
        for signum, handler in self._former.items():
            signal.signal(signum, handler or signal.SIG_DFL)
        if self._received:
            signal.raise_signal(self._received[0])

    def _wait(self, signum: int, frame: FrameType | None) -> None:
        self._received.append(signum)


def _started(name: str, task: Task, shown: bool, later: _Later) -> _Worker:
    """A process that runs the task."""
    context: Any = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(task, sender, shown, later), name=name)
    process.start()
    sender.close()  # the other end is the process's alone, so that its death is noticed
    return _Worker(process, receiver)


def _outcomes(workers: Sequence[_Worker]) -> list[_Outcome]:
    """One for each worker, in their order; the first error that arrives is raised, after what its task printed."""
    waiting = {worker.receiver: worker for worker in workers}
    arrived: dict[Any, _Outcome] = {}
    while waiting:
        for receiver in wait(list(waiting)):
            arrived[receiver] = waiting.pop(receiver).outcome()  # type: ignore[call-overload]
    return [arrived[worker.receiver] for worker in workers]


def _report(task: Task, sender: Connection, shown: bool, later: _Later) -> None:
    """Run a task, and send its outcome."""
    later.now()
    with _kept_back(shown) as printed:
        caught = _run_caught(task)
    output, errors = printed
    sender.send(_Outcome(output.getvalue(), errors.getvalue(), *caught))


@contextmanager
def _kept_back(shown: bool) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Keep what is printed to the two streams, but for what is shown at once."""
    printed = (io.StringIO(), io.StringIO())
    if shown:
        yield printed
    else:
        with redirect_stdout(printed[0]), redirect_stderr(printed[1]):
            yield printed


def _run_caught(task: Task) -> tuple[Exception | None, str, list[tuple[str, int | None]]]:
    """The error that ended a task, in a form that can be sent, its traceback and the places in it."""
    try:
        task()
    except Exception as error:  # noqa: BLE001  # it is raised where the process was started
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        return _sendable(error), traceback.format_exc(), places
    return None, "", []


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same where a class of the user's own cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    except Exception:  # noqa: BLE001  # whatever its constructor raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
