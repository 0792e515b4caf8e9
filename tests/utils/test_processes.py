"""Tasks in processes of their own: what they print and leave, and how they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lsa_lightning.runs.signals import Signals, Stopped
from lsa_lightning.utils import processes
from lsa_lightning.utils.processes import can_fork, run_all, run_apart

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs fork")


def note(file: Path) -> None:
    file.write_text(str(os.getpid()))


def test_several_processes_run_each_task_once(tmp_path: Path) -> None:
    run_all([partial(note, tmp_path / str(number)) for number in range(5)])
    assert sorted(path.name for path in tmp_path.iterdir()) == list("01234")


def test_in_processes_apart_each_task_runs_once(tmp_path: Path) -> None:
    run_apart({name: partial(note, tmp_path / name) for name in "abc"})
    pids = [int((tmp_path / name).read_text()) for name in "abc"]
    assert len({*pids, os.getpid()}) == 4


def test_tasks_in_processes_share_out_no_tasks_of_their_own(tmp_path: Path) -> None:
    def share() -> None:
        run_all([partial(note, tmp_path / str(number)) for number in range(4)])
        note(tmp_path / "own")

    run_apart({"share": share})
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1


def prints(text: str, *errors: str) -> None:
    print(text)
    for error in errors:
        print(error, file=sys.stderr)


def test_processes_print_in_the_order_of_the_tasks_and_a_warning_of_the_others_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    tasks: dict[str, Callable[[], object]] = {
        "first": partial(prints, "one"),
        "second": lambda: (time.sleep(0.3), prints("two", "same", "second's")),
        "third": partial(prints, "three", "same"),
    }
    run_apart(tasks)
    output, errors = capfd.readouterr()
    assert output.split() == ["one", "two", "three"]
    assert errors.splitlines() == ["same", "second's"]


def wait_for(file: Path) -> None:
    for _ in range(3000):
        if file.is_file():
            return
        time.sleep(0.01)
    msg = f"expected {file}"
    raise TimeoutError(msg)


def wait_to_be_stopped(folder: Path) -> None:
    """Until the signal comes, also if its error is lost; what is noted then says that there was time to save."""
    with Signals() as signals:
        try:
            (folder / "began").touch()
            while True:
                signals.check()
                time.sleep(0.01)
        except Stopped as stopped:
            (folder / "stopped").write_text(str(stopped))
            raise


class OwnError(Exception):
    """An error that cannot be sent: its constructor takes something else than its message."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fails(error: Exception, folder: Path) -> None:
    wait_for(folder / "began")
    prints("before", "a warning")
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("expected this, got that"), ValueError, "^expected this, got that$"),
        (OwnError(1, 2), RuntimeError, "^OwnError: 1 and 2$"),
    ],
)
def test_an_error_in_one_of_the_processes_ends_the_others_and_is_raised(
    error: Exception, kind: type[Exception], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = {"waits": partial(wait_to_be_stopped, tmp_path), "fails": partial(fails, error, tmp_path)}
    with pytest.raises(kind, match=message) as raised:
        run_apart(tasks)
    assert isinstance(raised.value.__cause__, processes.RaisedElsewhereError)
    assert "in fails\n    raise error" in str(raised.value.__cause__)
    assert raised.value.__cause__.places[-1][0] == __file__
    assert capfd.readouterr() == ("before\n", "a warning\n")
    assert (tmp_path / "stopped").read_text() == "SIGTERM"


def ends_by(signum: int, folder: Path) -> None:
    wait_for(folder / "began")
    os.kill(os.getpid(), signum)


def test_a_killed_one_of_the_processes_is_named(tmp_path: Path) -> None:
    tasks = {"waits": partial(wait_to_be_stopped, tmp_path), "seeds 3, 4": partial(ends_by, signal.SIGKILL, tmp_path)}
    with pytest.raises(ChildProcessError, match=r"^the process of seeds 3, 4 was ended by SIGKILL; if memory ran out"):
        run_apart(tasks)
    assert (tmp_path / "stopped").read_text() == "SIGTERM"


def stops(folder: Path) -> None:
    with Signals():
        ends_by(signal.SIGTERM, folder)


def test_a_signal_to_one_of_the_processes_stops_all(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"^the process of stops exited with status 143$"):
        run_apart({"waits": partial(wait_to_be_stopped, tmp_path), "stops": partial(stops, tmp_path)})
    assert (tmp_path / "stopped").is_file()


def wait_without_the_one_that_waits(folder: Path) -> None:
    """Its own process is the one that waits, and is gone before it ends."""

    def begin() -> None:
        (folder / "began").touch()
        with Signals(waits=os.getppid()) as signals:
            try:
                for _ in range(3000):
                    signals.check()
                    time.sleep(0.01)
            except Stopped as stopped:
                (folder / "stopped").write_text(str(stopped))

    if os.fork() == 0:
        begin()
        os._exit(0)
    wait_for(folder / "began")
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_of_the_processes_whose_starter_was_killed_stops(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="SIGKILL"):
        run_apart({"starter": partial(wait_without_the_one_that_waits, tmp_path)})
    wait_for(tmp_path / "stopped")
    assert (tmp_path / "stopped").read_text() in ("", "SIGTERM")


def signals_to(pid: int, folder: Path) -> None:
    wait_for(folder / "began")
    os.kill(pid, signal.SIGTERM)
    wait_to_be_stopped(folder / "second")


def test_a_signal_to_the_process_that_waits_stops_all_processes(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    tasks = {"waits": partial(wait_to_be_stopped, tmp_path), "signals": partial(signals_to, os.getpid(), tmp_path)}
    with Signals(), pytest.raises(Stopped):
        run_apart(tasks)
    assert (tmp_path / "stopped").read_text() == "SIGTERM"


def test_a_signal_between_the_starts_of_two_processes_stops_both(tmp_path: Path) -> None:
    def start_and_signal(name: str, *args: Any) -> Any:
        worker = started(name, *args)
        if name == "0":
            wait_for(tmp_path / name / "began")
            os.kill(os.getpid(), signal.SIGTERM)
        return worker

    started = processes._started
    for name in "01":
        (tmp_path / name).mkdir()
    with patch.object(processes, "_started", start_and_signal), Signals(), pytest.raises(Stopped):
        run_apart({name: partial(wait_to_be_stopped, tmp_path / name) for name in "01"})
    assert (tmp_path / "0/stopped").read_text() == "SIGTERM"
    assert not (tmp_path / "1/began").exists()  # the signal has come before it
