"""Run folders of ``lsa-train``, read back: those of finished jobs, and the state of the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lsa_lightning.evaluation.classes import ClassTable
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.folder import CONFIG_FILE, checked_mapping, read_json
from lsa_lightning.runs.status import STATUS_FILE, State, Status
from lsa_lightning.runs.summary import SUMMARY_FILE, RunSummary

CLASSES_FILE = "classes.json"
"""Confusion of the classes."""

_MARKS = frozenset({CONFIG_FILE, SUMMARY_FILE, STATUS_FILE})
"""A folder with one of these files is that of a job."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: its resolved configuration.
        summary: what was trained and found.
        reports: report of the layers by attack, in the order of the summary; only those whose file could be read.
        classes: confusion of the classes; None where it was left out, or cannot be read.
        unread: files that could not be read although the run has them, each with the reason. Its results count.
    """

    folder: Path
    config: dict[str, Any]
    summary: RunSummary
    reports: dict[str, SustainabilityReport]
    classes: ClassTable | None = None
    unread: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name that its configuration gives it."""
        return self.summary.name


@dataclass(frozen=True)
class LeftOut:
    """A job whose results do not count.

    Attributes:
        folder: where it lies.
        state: that of its status file, ``"unknown"`` without one, ``"unreadable"`` for files that are broken.
        detail: since when, why, or which file.
    """

    folder: Path
    state: str
    detail: str


@dataclass(frozen=True, eq=False)
class Jobs:
    """What lies in folders that were named.

    Attributes:
        runs: the finished runs.
        left_out: the other jobs.
    """

    runs: list[Run]
    left_out: list[LeftOut]


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        ValueError: if files do not hold what ``lsa-train`` writes.
        OSError: if files are missing or may not be read.
    """
    summary = RunSummary.load(folder)
    _check_values(summary, folder / SUMMARY_FILE)
    config = read_config(folder / CONFIG_FILE)
    reports: dict[str, SustainabilityReport] = {}
    unread: list[str] = []
    for name in summary.analysis.profiles if summary.analysis is not None else {}:
        try:
            reports[name] = SustainabilityReport.load(folder / f"profile_{name}.json")
        except (ValueError, OSError) as error:
            unread.append(in_one_line(error))
    return Run(folder, config, summary, reports, _read_classes(folder, unread), unread)


def _read_classes(folder: Path, unread: list[str]) -> ClassTable | None:
    """The confusion, if there is any; what keeps it from being read is added to ``unread``."""
    if not (folder / CLASSES_FILE).is_file():
        return None
    try:
        return ClassTable.from_dict(read_json(folder / CLASSES_FILE))
    except (ValueError, TypeError) as error:
        unread.append(in_one_line(error))
        return None


def find_jobs(paths: Sequence[Path]) -> Jobs:
    """The jobs in ``paths``: each is a run folder, or a folder that holds run folders at any depth, as a sweep's does.

    A job that has not ended, has failed, or whose files are broken is left out with its state. Folders of
    ``lsa-evaluate`` and ``lsa-analyze`` are no jobs.

    Raises:
        ValueError: if a path holds no job, all paths together hold no finished one, or a job is named twice.
    """
    found: list[Run | LeftOut] = []
    for path in paths:
        jobs = [job for job in _walk(path) if job is not None]
        if not jobs:
            msg = (
                f"expected a run folder of lsa-train ({CONFIG_FILE}, {SUMMARY_FILE}) or a folder of such folders, "
                f"found {_listing(path)} in {path}"
            )
            raise ValueError(msg)
        found += jobs
    _check_each_once([job.folder for job in found])
    runs, left_out = [j for j in found if isinstance(j, Run)], [j for j in found if isinstance(j, LeftOut)]
    if not runs:
        first = left_out[0]
        others = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        msg = f"expected a finished run, found {first.folder}: {first.state}, {first.detail}{others}"
        raise ValueError(msg)
    return Jobs(runs, left_out)


def in_one_line(error: Exception) -> str:
    """What an error says, without line breaks; that of the system as ``FILE: reason``."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _walk(top: Path) -> Iterable[Run | LeftOut | None]:
    """The jobs in ``top``, job 10 after job 9; a link to a folder that was already seen is not followed."""
    if not top.is_dir():
        what = "a file" if top.exists() else "nothing"
        msg = f"expected a run folder of lsa-train, found {what} at {top}"
        raise ValueError(msg)
    refused: list[LeftOut] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        refused.append(LeftOut(Path(error.filename), "unreadable", in_one_line(error)))

    for folder, subfolders, files in os.walk(top, followlinks=True, onerror=refuse):
        path, place = Path(folder), os.path.realpath(folder)
        is_job = not _MARKS.isdisjoint(files)
        if is_job and place not in seen:
            yield _read_job(path)
        subfolders[:] = [] if is_job or place in seen else _in_order(path, subfolders)
        seen.add(place)
    yield from refused


def _in_order(folder: Path, names: Iterable[str]) -> list[str]:
    """Subfolders by number, links last, hidden ones left out: ``.hydra`` has a config.yaml too."""
    shown = [name for name in names if not name.startswith(".")]
    return sorted(shown, key=lambda name: ((folder / name).is_symlink(), _with_numbers(name)))


def _with_numbers(name: str) -> list[str | float]:
    """``name`` in texts and numbers in turn, so that job 10 comes after job 9, and 0.03 before 0.1."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def _read_job(folder: Path) -> Run | LeftOut | None:
    """A run, if the job has finished and can be read; None for a folder of another entry point."""
    try:
        status = Status.load(folder)
        if status is not None and status.state is not State.FINISHED:
            return LeftOut(folder, status.state.value, _in_words(status))
        if (folder / SUMMARY_FILE).is_file():
            return read_run(folder)
        if status is not None:
            return LeftOut(folder, "unreadable", f"no {SUMMARY_FILE}, although {STATUS_FILE} says that it has finished")
        if "trainer" not in read_config(folder / CONFIG_FILE):
            return None
    except (ValueError, OSError) as error:
        return LeftOut(folder, "unreadable", in_one_line(error))
    return LeftOut(folder, "unknown", f"no {SUMMARY_FILE} and no {STATUS_FILE}: the run has not ended, or has failed")


def _in_words(status: Status) -> str:
    """Why a job has stopped, and since when nothing was heard of it."""
    updated = str(status.updated).replace("T", " ").replace("+00:00", " UTC")
    since = f"last updated {updated}, epochs done: {status.epoch}"
    return f"{status.reason}; {since}" if status.reason else since


def _check_each_once(folders: Sequence[Path]) -> None:
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder in folders if resolved.count(folder.resolve()) > 1]:
        msg = f"expected each run once, got {', '.join(twice)}"
        raise ValueError(msg)


def _check_values(summary: RunSummary, path: Path) -> None:
    """Raise a ValueError for what could not be shown beside other runs, so that it stays the problem of this one."""
    kinds: dict[str, Any] = {"name": str, "seed": int, "trained": dict, "epochs": int, "training_seconds": (int, float)}
    if wrong := [key for key, kind in kinds.items() if not isinstance(getattr(summary, key), kind)]:
        msg = f"expected {path} to be written by lsa-train, got another kind of {', '.join(wrong)}"
        raise ValueError(msg)
    try:
        if summary.evaluation is not None:
            _ = summary.metrics, summary.evaluation.intervals
        if summary.analysis is not None:
            _ = [float(mean) for mean in summary.analysis.profiles[summary.analysis.mvl_from].values()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"expected {path} to hold tables of numbers, got {error!r}"
        raise ValueError(msg) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a file, not resolved, as plain containers.

    Raises:
        ValueError: if it cannot be read, or is no mapping.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (ValueError, OSError, OmegaConfBaseException, YAMLError) as error:  # OSError: also for YAML of one word
        msg = f"expected {path} to be readable, got {in_one_line(error)}"
        raise ValueError(msg) from error
    if not values:
        msg = f"expected {path} to hold the configuration of a run, found it empty"
        raise ValueError(msg)
    return checked_mapping(values, path)


def _listing(folder: Path) -> str:
    """The first names in ``folder``, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
