"""Files that are always whole: written beside their target and renamed, so that a killed job leaves the old one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file, beside ``path`` and with its ending, that takes its place when the block ends without an error.

    The folder is made. After an error, or a kill at any moment, what was at ``path`` before is still there.

    Args:
        path: the file to write.

    Yields:
        Where to write.

    Raises:
        OSError: naming ``path``, if it could not be written, as on a full disk.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as new:
        ...         _ = new.write_text("whole")
        ...     [file.name for file in Path(folder).iterdir()]
        ['a.txt']
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        flush(part)
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        raise _unwritten(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file of UTF-8; see :func:`replacing`."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def append_text(path: str | Path, text: str) -> None:
    """Add whole lines to a file; if they do not all fit on the disk, none is added.

    Raises:
        OSError: naming ``path``, if they could not be written.
    """
    path = Path(path)
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab", buffering=0) as file:
            _write_all(file, text.encode())
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        raise _unwritten(error, path) from error


def _write_all(file: FileIO, content: bytes) -> None:
    """Write at once what either fits or does not."""
    if file.write(content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def remove_parts(folder: str | Path) -> None:
    """Remove what writers that were killed have left in ``folder``, at any depth."""
    for file in Path(folder).rglob(".*.part*"):
        if re.fullmatch(r"\..+\.\d+\.part(\.\w+)?", file.name):
            file.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk: a rename may otherwise come before the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(error: OSError, path: Path) -> OSError:
    """``error``, with the file that it happened to."""
    reason = error.strerror or str(error)
    kept = ", whose former content is kept" if path.exists() else ""
    return OSError(error.errno, f"could not write this file{kept}: {reason}", str(path))
