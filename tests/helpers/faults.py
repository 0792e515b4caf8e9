"""Faults planted in what this process writes, for tests and scripts/kill_and_resume.py."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lsa_lightning.utils import files

Write = Callable[[Path], None]
"""Called with the target just before what was written beside it takes its place, or is added to it."""


def plant(fault: Write) -> None:
    """Let ``fault`` see every write of the package."""
    flush, write_all = files.flush, files._write_all

    def flushed(path: Path) -> None:
        if ".part" in path.name:
            fault(path)
        flush(path)

    def written(file: FileIO, content: bytes) -> None:
        path = Path(str(file.name))
        file.write(content[: len(content) // 2])
        fault(path)
        write_all(file, content[len(content) // 2 :])

    patch.object(files, "flush", flushed).start()
    patch.object(files, "_write_all", written).start()


class Counter:
    """No fault: counts writes in a value that processes share."""

    def __init__(self, writes: Any) -> None:
        self.writes = writes

    def __call__(self, path: Path) -> None:
        """One more."""
        self.writes.value += 1


class Killer:
    """Kills this process within a write, of which half is done.

    Args:
        name: the file.
        nth: which of its writes.
    """

    def __init__(self, name: str, nth: int) -> None:
        self.stem, self.left = name.partition(".")[0], nth

    def __call__(self, path: Path) -> None:
        """Kill, if it is that write."""
        if path.name.lstrip(".").partition(".")[0] != self.stem:
            return
        self.left -= 1
        if self.left == 0:
            if ".part" in path.name:
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class FullDisk:
    """Makes a disk full from a write on.

    Args:
        folder: where it is mounted.
        nth: which of all writes.
        by_filling: with a file; else writes fail as on a full disk.
        note: a file elsewhere, for the names of the files that are there at that moment.
    """

    def __init__(self, folder: Path, nth: int, by_filling: bool, note: Path) -> None:
        self.folder, self.left, self.by_filling, self.note = folder, nth, by_filling, note

    def __call__(self, path: Path) -> None:
        """Fill the disk, or fail."""
        self.left -= 1
        if self.left == 0:
            files = (file for file in self.folder.rglob("*") if file.is_file() and ".part" not in file.name)
            self.note.write_text("\n".join(map(str, files)))
        if self.left == 0 and self.by_filling:
            _fill(self.folder / "filler")
        if self.left <= 0 and not self.by_filling:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(file: Path) -> None:
    """Write until nothing fits any more."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
