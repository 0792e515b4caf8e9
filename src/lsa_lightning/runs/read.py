"""Run folders of ``lsa-train``, read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.folder import CONFIG_FILE, checked_mapping
from lsa_lightning.runs.summary import SUMMARY_FILE, RunSummary


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: its resolved configuration.
        summary: what was trained and found.
        reports: report of the layers by attack, in the order of the summary; only those whose file is there.
    """

    folder: Path
    config: dict[str, Any]
    summary: RunSummary
    reports: dict[str, SustainabilityReport]

    @property
    def name(self) -> str:
        """The name that its configuration gives it."""
        return self.summary.name


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        ValueError: if files are missing or do not hold what ``lsa-train`` writes.
    """
    for name in (SUMMARY_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            msg = (
                f"expected {folder / name}, which lsa-train writes, found only {_listing(folder)}: the run has not "
                "ended, has failed, or is one of lsa-evaluate or lsa-analyze"
            )
            raise ValueError(msg)
    summary = RunSummary.load(folder)
    attacks = summary.analysis.profiles if summary.analysis is not None else {}
    files = {name: folder / f"profile_{name}.json" for name in attacks}
    reports = {name: SustainabilityReport.load(file) for name, file in files.items() if file.is_file()}
    return Run(folder, read_config(folder / CONFIG_FILE), summary, reports)


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """The runs in ``paths``: each is a run folder, or a folder of run folders such as that of a sweep.

    Returns:
        The finished runs, and the folders of the jobs in sweeps that have not finished.

    Raises:
        ValueError: if a path holds no finished run, or a run is named twice.
    """
    folders: list[Path] = []
    unfinished: list[Path] = []
    for path in paths:
        jobs = [path] if _is_run(path) else _jobs(path)
        finished = [job for job in jobs if job == path or (job / SUMMARY_FILE).is_file()]
        if not finished:
            msg = f"expected a finished run in {path}, found no {SUMMARY_FILE} in its {len(jobs)} job folders"
            raise ValueError(msg)
        folders += finished
        unfinished += [job for job in jobs if job not in finished]
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder in folders if resolved.count(folder.resolve()) > 1]:
        msg = f"expected each run once, got {', '.join(twice)}"
        raise ValueError(msg)
    return [read_run(folder) for folder in folders], unfinished


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG_FILE, SUMMARY_FILE))


def _jobs(sweep: Path) -> list[Path]:
    """The run folders in ``sweep``, job 10 after job 9."""
    if not sweep.is_dir():
        what = "a file" if sweep.exists() else "nothing"
        msg = f"expected a run folder of lsa-train, found {what} at {sweep}"
        raise ValueError(msg)
    jobs = [job for job in sweep.iterdir() if job.is_dir() and _is_run(job)]
    if not jobs:
        msg = (
            f"expected a run folder of lsa-train ({CONFIG_FILE}, {SUMMARY_FILE}) or a folder of such folders, "
            f"found {_listing(sweep)} in {sweep}"
        )
        raise ValueError(msg)
    return sorted(
        jobs, key=lambda job: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", job.name)]
    )


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a file, not resolved, as plain containers.

    Raises:
        ValueError: if it cannot be read, or is no mapping.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (ValueError, OSError, YAMLError) as error:  # OSError: OmegaConf's word for YAML without a mapping or list
        msg = f"expected {path} to be readable, got {' '.join(str(error).split())}"
        raise ValueError(msg) from error
    return checked_mapping(values, path)


def _listing(folder: Path) -> str:
    """The first names in ``folder``, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
