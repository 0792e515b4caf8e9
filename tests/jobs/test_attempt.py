"""What a job finds in its folder, and what it leaves there."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from lsa_lightning.jobs.attempt import LAST, Attempt, differences, note_rank, running
from lsa_lightning.runs.signals import Signals, Stopped
from lsa_lightning.runs.status import State, Status

CONFIG: dict[str, Any] = {
    "seed": 0,
    "trainer": {"max_epochs": 3, "devices": 1},
    "paths": {"output_dir": "/runs/a"},
    "callbacks": {"checkpoint": {"dirpath": "/runs/a/checkpoints"}},
    "evaluation": {"eps": [0.1, 0.3]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    OmegaConf.save(OmegaConf.create(CONFIG), tmp_path / "config.yaml")
    (tmp_path / LAST).parent.mkdir()
    (tmp_path / LAST).touch()
    return tmp_path


def _but(**entries: Any) -> dict[str, Any]:
    return {**CONFIG, **entries}


def test_a_folder_that_was_moved_makes_no_difference() -> None:
    moved = _but(paths={"output_dir": "/b"}, callbacks={"checkpoint": {"dirpath": "/b/checkpoints"}})
    assert differences(CONFIG, moved) == {}


def test_differences_are_named() -> None:
    other = _but(seed=1, trainer={"max_epochs": 3}, name="x")
    assert list(differences(CONFIG, other).values()) == [
        "seed: 0, now 1",
        "trainer.devices: 1, now nothing",
        "name: nothing, now x",
    ]


def test_the_same_configuration_goes_on(folder: Path) -> None:
    attempt = Attempt.of(CONFIG, folder)
    assert attempt.checkpoint == folder / LAST
    assert not attempt.finished


def test_another_configuration_is_refused_by_what_differs(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"which holds checkpoints/last\.ckpt, .* got another: seed: 0, now 1\."):
        Attempt.of(_but(seed=1), folder)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": {"root": "/b"}}, "data.root: nothing, now /b"),
        ({"trainer": {"max_epochs": 3, "devices": 2}}, "trainer.devices: 1, now 2"),
    ],
)
def test_what_may_change_the_results_is_said(folder: Path, other: dict[str, Any], words: str) -> None:
    with pytest.warns(UserWarning, match=f"goes on with {words}: expected the same data there, and batches of as many"):
        assert Attempt.of(_but(**other), folder).checkpoint == folder / LAST


def test_without_a_checkpoint_there_is_nothing_to_lose(folder: Path) -> None:
    (folder / LAST).unlink()
    assert Attempt.of(_but(seed=1), folder).checkpoint is None


def test_metrics_of_something_else_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(ValueError, match=r"expected a folder without metrics, or a run folder .* got .*metrics\.csv"):
        Attempt.of(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("config", "finished"),
    [
        (CONFIG, True),
        (_but(logger={"csv": None}, trainer={"max_epochs": 3, "devices": 2}), True),
        (_but(trainer={"max_epochs": 5, "devices": 1}), False),
        (_but(evaluation={"eps": [0.1]}), False),
    ],
)
def test_a_finished_job_goes_on_for_what_changes_its_results(folder: Path, config: Any, finished: bool) -> None:
    (folder / "summary.json").touch()
    Status(State.FINISHED).save(folder)
    assert Attempt.of(config, folder).finished == finished


def test_fewer_epochs_than_are_finished_are_refused_before_anything_changes(folder: Path) -> None:
    Status(State.FINISHED, epoch=3).save(folder)
    fewer = _but(trainer={"max_epochs": 2, "devices": 1})
    with pytest.raises(ValueError, match=r"expected trainer\.max_epochs >= 3, as that many are finished in .*, got 2"):
        Attempt.of(fewer, folder)
    assert (_status(folder).state, _status(folder).epoch) == (State.FINISHED, 3)


def test_a_summary_of_an_unfinished_job_is_not_its_end(folder: Path) -> None:
    (folder / "summary.json").touch()
    Status(State.INTERRUPTED).save(folder)
    assert not Attempt.of(CONFIG, folder).finished


def _status(folder: Path) -> Status:
    status = Status.load(folder)
    assert status is not None
    return status


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def _written_by(pid: int, folder: Path, **changed: Any) -> None:
    with patch("os.getpid", lambda: pid):
        Status(State.RUNNING).save(folder)
    file = folder / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def test_a_folder_that_another_process_trains_into_is_refused(
    folder: Path, other_process: subprocess.Popen[bytes]
) -> None:
    _written_by(other_process.pid, folder)
    with pytest.raises(
        ValueError, match=f"process {other_process.pid} on .* is training into .*kill {other_process.pid}"
    ):
        Attempt.of(CONFIG, folder)
    other_process.kill()
    while Path(f"/proc/{other_process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert Attempt.of(CONFIG, folder).checkpoint is not None  # also before anybody has asked how it ended


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"updated": "2020-01-01T00:00:00+00:00"}])
def test_a_process_that_only_has_the_same_number_is_not_the_one(
    folder: Path, other_process: subprocess.Popen[bytes], changed: dict[str, str]
) -> None:
    _written_by(other_process.pid, folder, **changed)
    assert Attempt.of(CONFIG, folder).checkpoint is not None


def test_the_status_follows_the_job(tmp_path: Path) -> None:
    attempt = Attempt.of(CONFIG, tmp_path)
    with running([attempt], tmp_path):
        assert _status(tmp_path).state == State.RUNNING
        attempt.note_epoch(2)
    assert (_status(tmp_path).state, _status(tmp_path).epoch, _status(tmp_path).attempts) == (State.FINISHED, 2, 1)


def _fail(message: str) -> None:
    raise RuntimeError(message)


def test_an_error_is_noted_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), running([Attempt.of(CONFIG, tmp_path)], tmp_path):
        _fail("two\nlines")
    assert (_status(tmp_path).state, _status(tmp_path).reason) == (State.FAILED, "RuntimeError: two lines")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_job_that_ends_itself_is_not_left_running(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), running([Attempt.of(CONFIG, tmp_path)], tmp_path):
        raise error
    status = Status.load(tmp_path)
    assert status is not None
    assert status.state is State.INTERRUPTED


def test_a_signal_is_noted_and_the_way_to_go_on_is_printed(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a run"
    place.mkdir()
    with pytest.raises(Stopped), running([Attempt.of(CONFIG, place)], place):
        signal.raise_signal(signal.SIGTERM)
    assert (_status(place).state, _status(place).reason) == (State.INTERRUPTED, "SIGTERM")
    assert f"lsa-train 'resume={place}'\n" in capsys.readouterr().out


def _dies_of_a_held_signal(signals: Signals) -> None:
    signals.hold()
    signal.raise_signal(signal.SIGTERM)
    _fail("a worker was killed")


def test_an_error_after_a_signal_is_the_signals_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped), running([Attempt.of(CONFIG, tmp_path)], tmp_path) as signals:
        _dies_of_a_held_signal(signals)
    reason = "SIGTERM; RuntimeError: a worker was killed"
    assert (_status(tmp_path).state, _status(tmp_path).reason) == (State.INTERRUPTED, reason)
    assert f"Stopped by {reason}\n" in capsys.readouterr().out


def test_a_process_that_a_launcher_numbers_late_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # as Lightning reads it where the number is not known yet
    for number, writes in (("0", True), ("1", False)):
        place = tmp_path / number
        place.mkdir()
        monkeypatch.setenv("LOCAL_RANK", number)
        note_rank()
        with running([Attempt.of(CONFIG, place)], place):
            assert (place / "status.json").exists() == writes
    monkeypatch.setenv("LOCAL_RANK", "0")
    note_rank()
    assert rank_zero_only.rank == 1  # what is known stays


def test_attempts_are_counted_and_what_killed_writers_left_is_removed(folder: Path) -> None:
    Status(State.RUNNING, epoch=1, attempts=2).save(folder)
    part = folder / "checkpoints" / ".last.123.part.ckpt"
    part.touch()
    with running([Attempt.of(CONFIG, folder)], folder):
        assert (_status(folder).attempts, _status(folder).epoch) == (3, 1)
        assert not part.exists()


def _stopped_after(first: Attempt) -> None:
    first.note(State.FINISHED)
    signal.raise_signal(signal.SIGTERM)


def test_of_several_jobs_those_that_are_finished_stay_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [Attempt.of(CONFIG, tmp_path / name) for name in ("a", "b")]
    with pytest.raises(Stopped), running(attempts, tmp_path):
        _stopped_after(attempts[0])
    assert [_status(attempt.folder).state for attempt in attempts] == [State.FINISHED, State.INTERRUPTED]
    assert capsys.readouterr().out.count(f"lsa-train resume={tmp_path}\n") == 1
