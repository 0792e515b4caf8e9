"""lsa-train with a fault planted in what it writes, for scripts/kill_and_resume.py.

python -m scripts.faulty_train none -- OVERRIDE ...
python -m scripts.faulty_train kill NAME N -- OVERRIDE ...    SIGKILL when half of the N-th write of NAME is written
python -m scripts.faulty_train full FOLDER N fill|fail -- OVERRIDE ...    from the N-th write on, FOLDER's disk is full
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from unittest.mock import patch

from lsa_lightning.utils import files

Write = Callable[[Path], None]
"""Called with the target just before what was written beside it takes its place, or is added to it."""


def main() -> None:
    """Plant the fault and train."""
    end = sys.argv.index("--")
    kind, *options = sys.argv[1:end]
    sys.argv[1:] = sys.argv[end + 1 :]
    if kind == "kill":
        _plant(_Killer(options[0], int(options[1])))
    elif kind == "full":
        _plant(_FullDisk(Path(options[0]), int(options[1]), by_filling=options[2] == "fill"))
    from lsa_lightning.cli.train import main as train

    train()


def _plant(fault: Write) -> None:
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


class _Killer:
    """Kills this process within a write, of which half is done."""

    def __init__(self, name: str, nth: int) -> None:
        self.stem, self.left = name.partition(".")[0], nth

    def __call__(self, path: Path) -> None:
        if path.name.lstrip(".").partition(".")[0] != self.stem:
            return
        self.left -= 1
        if self.left == 0:
            if ".part" in path.name:
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class _FullDisk:
    """Makes the disk full from a write on."""

    def __init__(self, folder: Path, nth: int, by_filling: bool) -> None:
        self.folder, self.left, self.by_filling = folder, nth, by_filling

    def __call__(self, path: Path) -> None:
        self.left -= 1
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


if __name__ == "__main__":
    main()
