"""The files of a run folder, compared with those of another run but for times and places."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TIMES = ("training_seconds", "attempts", "updated", "pid", "seconds")
LEFT_OUT = ("train.log", "hydra.yaml", "overrides.yaml", "config.yaml")


def differing_files(folder: Path, other: Path) -> list[str]:
    """Names of files that are in one folder alone, or that differ in more than times and the folder's own path."""
    files = {each: _files(each) for each in (folder, other)}
    names = sorted({*files[folder], *files[other]})
    return [name for name in names if not _same(files[folder].get(name), files[other].get(name), (folder, other))]


def unreadable_files(folder: Path) -> list[str]:
    """Names of files that cannot be read, or are what a killed writer left."""
    return [name for name, path in _files(folder).items() if _content(path, folder) is None]


def _files(folder: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in LEFT_OUT
    }


def _same(file: Path | None, other: Path | None, places: tuple[Path, Path]) -> bool:
    if file is None or other is None:
        return False
    return _equal(_content(file, places[0]), _content(other, places[1]))


def _content(path: Path, place: Path) -> Any:
    """What a file holds, without times, with RUN for the run folder; None if it cannot be read."""
    try:
        if path.suffix == ".ckpt":
            return _placed(torch.load(path, weights_only=True, map_location="cpu"), place)
        text = path.read_bytes() if path.suffix == ".png" else path.read_text().replace(str(place), "RUN")
        if path.suffix == ".json":
            return _placed(json.loads(text), place)
        if path.suffix == ".csv":
            return list(csv.reader(str(text).splitlines(), strict=True))
    except Exception:  # noqa: BLE001  (whatever it is, the file is not whole)
        return None
    return None if re.search(r"\.part", path.name) else text


def _placed(value: Any, place: Path) -> Any:
    if isinstance(value, dict):
        return {_placed(key, place): _placed(each, place) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_placed(each, place) for each in value]
    return value.replace(str(place), "RUN") if isinstance(value, str) else value


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and torch.equal(value, other) and value.dtype == other.dtype
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_equal(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_equal, value, other))
    return bool(value == other) or str(value) == str(other) == "nan"


def differing_entries(value: Any, other: Any, path: str = "") -> list[str]:
    """Where two contents differ, for messages."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = sorted({*value, *other}, key=str)
        return [e for key in keys for e in differing_entries(value.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        pairs = enumerate(zip(value, other, strict=True))
        return [e for index, (a, b) in pairs for e in differing_entries(a, b, f"{path}/{index}")]
    return [] if _equal(value, other) else [f"{path}: {value!s:.80} != {other!s:.80}"]
