"""Run folders that differ from a given one in what a test is about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def copy_run(run: Path, folder: Path, config: dict[str, Any] | None = None, **summary: Any) -> Path:
    """Copy ``run`` to ``folder``, with these entries of config.yaml (by dotted key) and of summary.json instead."""
    shutil.copytree(run, folder)
    node = OmegaConf.load(folder / "config.yaml")
    text = OmegaConf.to_yaml(node).replace(node.paths.output_dir, str(folder))
    node = OmegaConf.create(text)
    for key, value in {**(config or {}), **{k: v for k, v in summary.items() if k in ("name", "seed")}}.items():
        OmegaConf.update(node, key, value, force_add=True)
    OmegaConf.save(node, folder / "config.yaml")
    edit_summary(folder, **summary)
    return folder


def edit_summary(folder: Path, **entries: Any) -> None:
    """Put these entries into summary.json."""
    values = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**values, **entries}))


def copy_that_runs_code(run: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of ``run`` that would run code if its threat model were made, and the file that the code would make."""
    ran = folder / "code_ran"
    node = {"_target_": "timeit.timeit", "stmt": f"open({str(ran)!r}, 'w').close()", "number": 1}
    return copy_run(run, folder / "foreign", {"threat.norm": node}), ran
