"""A file of the batches that an evaluation has finished, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class FinishedBatches:
    """Counts of finished batches in a file of JSON lines: what they belong to, then one line per batch.

    A batch is added by appending its line, so neither memory nor time per batch grows with their number; a line that
    was cut off when the process died is left out. Each process of a distributed run writes a file of its own, and reads
    those of the others too.

    Args:
        path: the file; process p > 0 appends ``.rank<p>`` to its name. None: nothing is noted.
        header: what the counts belong to, in plain containers.
        rank: number of this process.

    Raises:
        ValueError: if a file has another header.
    """

    def __init__(self, path: str | Path | None, header: dict[str, Any], rank: int = 0) -> None:
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.path: Path | None = None
        self.done: dict[int, dict[str, Any]] = {}
        if path is None:
            return
        first = Path(path)
        first.parent.mkdir(parents=True, exist_ok=True)
        self.path = first if rank == 0 else first.with_name(f"{first.name}.rank{rank}")
        for file in sorted({first, self.path, *first.parent.glob(f"{first.name}.rank*[0-9]")}):
            self._read(file)

    def recall(self, index: int, fingerprint: int) -> dict[str, int] | None:
        """The counts that were noted for a batch, or None.

        Raises:
            ValueError: if they were noted for another batch than the one with this :func:`digest`.
        """
        entry = self.done.get(index)
        if entry is None:
            return None
        if entry["digest"] != fingerprint:
            msg = f"expected batch {index} to be the one noted in {self.path}, got other data; do not shuffle"
            raise ValueError(msg)
        counts: dict[str, int] = entry["counts"]
        return counts

    def note(self, index: int, fingerprint: int, counts: dict[str, int]) -> None:
        """Append a batch to the file."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"batch": index, "digest": fingerprint, "counts": counts}) + "\n")

    def _read(self, file: Path) -> None:
        """Take over what a file holds; this process's own is made ready for appending."""
        whole = file.read_text() if file.is_file() else ""
        kept = whole[: whole.rfind("\n") + 1]
        lines = kept.splitlines()
        try:
            header, *entries = map(json.loads, lines or [json.dumps(self.header)])
            self.done |= {entry["batch"]: entry for entry in entries}
        except (ValueError, TypeError, KeyError) as error:
            msg = f"expected {file} to be a file of finished batches, got something else: {error}"
            raise ValueError(msg) from error
        if header != self.header:
            msg = f"expected {file} to belong to this evaluation, but {self._differences(header)}; give another file"
            raise ValueError(msg)
        if file == self.path and not lines:
            file.write_text(json.dumps(self.header) + "\n")
        elif file == self.path and kept != whole:
            os.truncate(file, len(kept))  # bytes: what json.dumps writes is ASCII

    def _differences(self, other: Any) -> str:
        """What sets this header and another one apart, in words."""
        if not isinstance(other, dict):
            return f"it begins with {other!r:.80}"
        keys = [key for key in {**self.header, **other} if self.header.get(key) != other.get(key)]
        return "; ".join(f"its {key} is {other.get(key)}, not {self.header.get(key)}" for key in keys)


def digest(tensors: dict[str, Tensor]) -> int:
    """A checksum of the tensors' bytes and names.

    Example:
        >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(3)})
        False
    """
    value = 0
    for name, tensor in tensors.items():
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), value)
    return value
