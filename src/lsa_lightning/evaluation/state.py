"""A file of the batches that an evaluation has finished, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lsa_lightning.attacks import Attack
from lsa_lightning.utils.describe import described, without_addresses
from lsa_lightning.utils.files import append_text, write_text
from lsa_lightning.utils.isolation import lent


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
        self._answered = False
        if path is None:
            return
        first = Path(path)
        first.parent.mkdir(parents=True, exist_ok=True)
        self.path = first if rank == 0 else first.with_name(f"{first.name}.rank{rank}")
        for file in sorted({first, self.path, *first.parent.glob(f"{first.name}.rank*[0-9]")}):
            self._read(file)

    def recall(self, index: int, fingerprint: int, answer: Callable[[], list[float]]) -> dict[str, int] | None:
        """The counts that were noted for a batch, or None.

        Args:
            index: number of the batch.
            fingerprint: its :func:`digest`.
            answer: what the model says to it, see :func:`answer_of`; asked for at one batch of a file alone.

        Raises:
            ValueError: if they were noted for another batch, or of a model that said something else.
        """
        entry = self.done.get(index)
        if entry is None:
            return None
        if entry["digest"] != fingerprint:
            msg = f"expected batch {index} to be the one noted in {self.path}, got other data; do not shuffle"
            raise ValueError(msg)
        if "answer" in entry:
            self._check_answer(entry["answer"], answer())
        counts: dict[str, int] = entry["counts"]
        return counts

    def note(self, index: int, fingerprint: int, answer: Callable[[], list[float]], counts: dict[str, int]) -> None:
        """Append a batch to the file; the arguments are those of :meth:`recall`."""
        if self.path is not None:
            entry = {"batch": index, "digest": fingerprint, "counts": counts}
            if not self._answered:
                entry["answer"] = answer()
                self._answered = True
            append_text(self.path, json.dumps(entry) + "\n")

    def _check_answer(self, noted: list[float], now: list[float]) -> None:
        """Half of the digits must agree: devices and versions round differently."""
        tolerance = torch.finfo(torch.float32).eps ** 0.5
        size = max((abs(value) for value in now), default=0.0)
        same = len(noted) == len(now) and all(
            abs(a - b) <= tolerance * size or a == b for a, b in zip(noted, now, strict=True)
        )
        if not same:
            msg = (
                f"expected {self.path} to belong to this model, which has the same weights but computes something "
                "else: a setting, an attribute or a buffer outside of state_dict differs; give another file"
            )
            raise ValueError(msg)

    def _read(self, file: Path) -> None:
        """Take over what a file holds; this process's own is made ready for appending."""
        whole = file.read_text() if file.is_file() else ""
        kept = whole[: whole.rfind("\n") + 1]
        lines = kept.splitlines()
        try:
            header, *entries = map(json.loads, lines or [json.dumps(self.header)])
            self.done |= {entry["batch"]: entry for entry in entries}
            self._answered |= file == self.path and bool(entries)
        except (ValueError, TypeError, KeyError) as error:
            msg = f"expected {file} to be a file of finished batches, got something else: {error}"
            raise ValueError(msg) from error
        if header != self.header:
            msg = f"expected {file} to belong to this evaluation, but {self._differences(header)}; give another file"
            raise ValueError(msg)
        if file == self.path and not lines:
            write_text(file, json.dumps(self.header) + "\n")
        elif file == self.path and kept != whole:
            os.truncate(file, len(kept))  # bytes: what json.dumps writes is ASCII

    def _differences(self, other: Any) -> str:
        """What sets this header and another one apart, in words."""
        if not isinstance(other, dict):
            return f"it begins with {other!r:.80}"
        keys = [key for key in {**self.header, **other} if self.header.get(key) != other.get(key)]
        return "; ".join(f"its {key} is {other.get(key)}, not {self.header.get(key)}" for key in keys)


def settings_of(attacks: Mapping[str, Attack]) -> dict[str, str]:
    """What the attacks are, private attributes included, in words that are the same in every process."""
    drawn = frozenset({"_generators", "_checks"})  # where an attack is in a run, not what it is
    return {
        name: f"{without_addresses(repr(attack))}, digest {described(attack, leave_out=drawn)}"
        for name, attack in attacks.items()
    }


def answer_of(model: nn.Module, x: Tensor) -> list[float]:
    """A few numbers that tell a model's function from another's of the same weights: its outputs and their gradient.

    Both, as a model may say the same and hide its gradient. The model is in eval mode, and left as it was.
    """
    with torch.inference_mode(False), torch.enable_grad(), lent(model, x.device):
        torch.manual_seed(0)  # a model that draws random numbers draws the same again
        x = x.detach().clone().requires_grad_(x.is_floating_point())
        outputs = [
            part for part in tree_leaves(model(x.clone())) if isinstance(part, Tensor) and part.is_floating_point()
        ]
        total = sum((_projected(output) for output in outputs), torch.zeros(()).to(x.device))
        gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    numbers = [float(total.detach()), *(float(output.detach().float().norm()) for output in outputs)]
    return numbers if gradient is None else [*numbers, float(_projected(gradient)), float(gradient.float().norm())]


def _projected(values: Tensor) -> Tensor:
    """The sum of ``values`` with signs that belong to their places."""
    flat = values.float().flatten()
    return (flat * torch.cos(torch.arange(len(flat), device=flat.device).float())).sum()


def digest(tensors: Mapping[str, Any]) -> int:
    """A checksum of the tensors' bytes and names; what is no tensor, as an extra state may be, counts as it is.

    Example:
        >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(3)})
        False
    """
    value = 0
    for name, tensor in tensors.items():
        value = zlib.crc32(name.encode(), value)
        if isinstance(tensor, Tensor):
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        else:
            content = described(tensor).encode()
        value = zlib.crc32(content, value)
    return value
