"""W&B runs without a network: a home for them, and W&B's own reader of their files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

OFFLINE = ("logger=wandb", "logger.wandb.offline=true")


def keep_wandb_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B writes its caches and its state to ``folder``."""
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(folder / "wandb_home"))


@dataclass
class WandbRun:
    """What the .wandb file of an offline run holds."""

    files: Path
    """The folder of the media."""
    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """Type and name of each."""
    preempting: bool = False
    exit_code: int | None = None

    def series(self, key: str) -> list[tuple[int, float]]:
        """``(epoch, value)`` of each point of a line."""
        return [(row["epoch"], row[key]) for row in self.history if key in row]


def read_wandb(folder: Path) -> WandbRun:
    """The only offline run in the run folder ``folder``, as ``wandb leet inspect`` reads it."""
    (run,) = read_every_wandb(folder)
    return run


def read_every_wandb(folder: Path) -> list[WandbRun]:
    """The offline runs in a run folder, one for each time that its job was started, in their order."""
    return [_read(file) for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


def _read(file: Path) -> WandbRun:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    run = WandbRun(file.parent / "files")
    for record in map(json.loads, lines):
        content = record.get(record["type"], {})
        if record["type"] == "run":
            run.info = content
        elif record["type"] == "config":
            run.config |= content["update"]
        elif record["type"] == "summary":
            run.summary |= content["update"]
        elif record["type"] == "history":
            run.history.append(content["item"])
        elif record["type"] == "artifact":
            run.artifacts.append((content["type"], content["name"]))
        elif record["type"] == "preempting":
            run.preempting = True
        elif record["type"] == "exit":
            run.exit_code = content["exit_code"]
    return run
