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

_CLOCKS_DIFFER = 2.0
"""Seconds that the time at which a process began may be off: the system's start is noted in whole seconds."""


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

    @property
    def is_alive(self) -> bool:
        """Whether the process that wrote this still runs on this machine; False where nobody can tell from here."""
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        began = began_at(self.pid)
        return began is not None and began <= datetime.fromisoformat(self.updated).timestamp() + _CLOCKS_DIFFER

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


def began_at(pid: int) -> float | None:
    """When a process of this machine began, in seconds since 1970; None if it has ended, or there is no ``/proc``.

    Its number alone does not tell it from a later process of the same number.

    Example:
        >>> began_at(os.getpid()) <= datetime.now().timestamp() + 1 if Path("/proc/stat").is_file() else True
        True
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return None
    if state in "ZX":  # it has ended, and its parent has not asked yet
        return None
    return int(booted.split()[1]) + int(fields[18]) / os.sysconf("SC_CLK_TCK")


def _overwrite(path: Path, text: str) -> None:
    """Put ``text`` into the place of what is in a file, blank up to the old length."""
    with path.open("r+b", buffering=0) as file:
        content = text.encode()
        size = path.stat().st_size
        file.write(content.ljust(size))
