"""A finished run's folder as others may have it: what a page and a model need, and nothing of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from lsa_lightning.runs.folder import CONFIG_FILE, write_json
from lsa_lightning.runs.read import CLASSES_FILE, read_run
from lsa_lightning.runs.status import STATUS_FILE, State, Status
from lsa_lightning.runs.summary import SUMMARY_FILE, RunSummary
from lsa_lightning.runs.whole_checkpoint import WholeCheckpointIO
from lsa_lightning.utils.files import replacing, write_text

WEIGHTS_FILE = "checkpoints/best.ckpt"
"""Where a shared run has its weights."""

_OF_THE_MACHINE = ("logger", "paths")
"""Parts of a configuration that say where a run was kept and logged, not what it is."""

_KEPT = ("state_dict", "epoch", "global_step", "pytorch-lightning_version")
"""Of a checkpoint: no optimizer, no callbacks, no random states."""


def share(run_folder: Path, target: Path) -> Path:
    """Copy what is worth sharing of a finished run, and return ``target``.

    That is ``config.yaml`` without its loggers and without the folders of its paths, ``summary.json``, the profiles of
    the layers, ``metrics.csv``, ``classes.json``, the smaller file of each figure, and the weights that were measured,
    without what training needed besides.

    Args:
        run_folder: run folder of ``lsa-train``.
        target: a folder that is made; files of the same names are replaced.

    Raises:
        ValueError: if the run has not finished, or has no checkpoint of the weights that were measured.
        OSError: if a file is missing, or could not be written.
    """
    status = Status.load(run_folder)
    if status is not None and status.state is not State.FINISHED:
        msg = f"expected a finished run, got {run_folder}, whose {STATUS_FILE} says {status.state.value}"
        raise ValueError(msg)
    run = read_run(run_folder)
    weights = _weights(run_folder, run.summary)
    target.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in run.config.items() if key not in _OF_THE_MACHINE}
    write_text(target / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(_portable(config))))
    write_json({**run.summary.to_dict(), "checkpoint": WEIGHTS_FILE}, target / SUMMARY_FILE)
    WholeCheckpointIO().save_checkpoint(weights, target / WEIGHTS_FILE)
    for file in _other_files(run_folder):
        with replacing(target / file.relative_to(run_folder)) as new:
            shutil.copyfile(file, new)
    return target


def _weights(run_folder: Path, summary: RunSummary) -> dict[str, Any]:
    """What is kept of the checkpoint that was measured; of the last one, where the summary names none."""
    name = "last.ckpt" if summary.checkpoint is None else Path(summary.checkpoint).name
    file = run_folder / "checkpoints" / name
    if not file.is_file():
        msg = f"expected {file.parent} to hold {name}, the weights that {SUMMARY_FILE} is about, found none"
        raise ValueError(msg)
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    if summary.checkpoint_epoch is not None and checkpoint["epoch"] != summary.checkpoint_epoch:
        of = f"of epoch {summary.checkpoint_epoch}, which {SUMMARY_FILE} is about"
        msg = f"expected {file} to hold the weights {of}, got those of epoch {checkpoint['epoch']}"
        raise ValueError(msg)
    return {key: checkpoint[key] for key in _KEPT if key in checkpoint}


def _other_files(run_folder: Path) -> Iterable[Path]:
    """The files that are copied as they are; a link might lead to something that is not the run's."""
    figures: dict[str, Path] = {}
    drawn = [file for file in run_folder.glob("figures/*") if file.suffix in (".png", ".svg")]
    for file in sorted(drawn, key=lambda it: it.stat().st_size):
        figures.setdefault(file.stem, file)
    tables = [run_folder / name for name in ("metrics.csv", CLASSES_FILE)]
    files = [*run_folder.glob("profile_*.json"), *tables, *figures.values()]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def _portable(value: Any) -> Any:
    """``value`` with absolute paths cut down to their last names."""
    if isinstance(value, dict):
        return {key: _portable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_portable(child) for child in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
