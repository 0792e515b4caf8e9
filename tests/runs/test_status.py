"""The state of a job in its folder."""

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from lsa_lightning.runs.status import State, Status


def test_a_status_comes_back_with_the_process_that_wrote_it(tmp_path: Path) -> None:
    Status(State.INTERRUPTED, reason="SIGTERM", epoch=3, attempts=2).save(tmp_path)
    status = Status.load(tmp_path)
    assert status is not None
    assert (status.state, status.reason, status.epoch, status.attempts) == (State.INTERRUPTED, "SIGTERM", 3, 2)
    assert status.pid == os.getpid()
    assert status.updated.endswith("+00:00")


def test_a_folder_without_a_status_has_none(tmp_path: Path) -> None:
    assert Status.load(tmp_path) is None


@pytest.mark.parametrize("text", ['{"state": "asleep"}', "{", "[]"])
def test_something_else_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(ValueError, match=r"status\.json"):
        Status.load(tmp_path)


def test_on_a_full_disk_the_status_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    Status(State.RUNNING, reason="a long reason, so that the file becomes shorter").save(tmp_path)
    with patch("lsa_lightning.runs.status.write_text", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        Status(State.FAILED).save(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            Status(State.FAILED).save(tmp_path / "without")
    status = Status.load(tmp_path)
    assert status is not None
    assert status.state == State.FAILED
