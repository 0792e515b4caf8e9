"""How far a job is: a small file in its run folder."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

from lsa_lightning.runs.folder import read_json
from lsa_lightning.utils.files import write_text

STATUS_FILE = "status.json"


class State(str, Enum):
    """What a job is doing, or how it ended."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True)
class Status:
    """The state of a job.

    Attributes:
        state: the state.
        reason: why it is interrupted or failed, in one line; empty otherwise.
        epoch: epochs that are finished.
        attempts: how many times the job was started.
        updated: when this was written, in UTC (ISO 8601). A job that was killed outright leaves ``running``.
        host: the machine that it runs or ran on.
        pid: its process there.
    """

    state: State
    reason: str = ""
    epoch: int = 0
    attempts: int = 1
    updated: str = ""
    host: str = ""
    pid: int = 0

    def save(self, folder: Path) -> None:
        """Write :data:`STATUS_FILE`, with the time, the host and the process of now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values = {**asdict(self), "updated": now, "host": socket.gethostname(), "pid": os.getpid()}
        text = json.dumps({**values, "state": self.state.value}, indent=2) + "\n"
        try:
            write_text(folder / STATUS_FILE, text)
        except OSError:
            if not (folder / STATUS_FILE).is_file():
                raise
            _overwrite(folder / STATUS_FILE, text)  # on a full disk it takes no more space than before

    @classmethod
    def load(cls, folder: Path) -> Status | None:
        """The status of the job in ``folder``; None where there is none, as in folders of before 0.2.

        Raises:
            ValueError: if the file holds something else.
        """
        path = folder / STATUS_FILE
        if not path.is_file():
            return None
        values = read_json(path)
        try:
            known = {field.name: values[field.name] for field in fields(cls)}
            return cls(**{**known, "state": State(known["state"])})
        except (KeyError, ValueError) as error:
            msg = f"expected {path} to hold a job's status, got {values}"
            raise ValueError(msg) from error


def _overwrite(path: Path, text: str) -> None:
    """Put ``text`` into the place of what is in a file, blank up to the old length."""
    with path.open("r+b", buffering=0) as file:
        content = text.encode()
        size = path.stat().st_size
        file.write(content.ljust(size))
