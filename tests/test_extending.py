"""To add something is to write at most one class and one YAML file; ``lsa-train`` then runs with it.

Attacks: ``test_contributing.py``. Norms, which need no YAML file: ``attacks/test_threat.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.helpers.extensions import OwnLogger
from tests.helpers.hydra_run import ONE_EPOCH, TINY, composed_job, logged, read_json

from lsa_lightning.jobs.train import train
from lsa_lightning.runs.loggers import ResultLogger


def written(folder: Path, name: str, text: str) -> str:
    """Write a YAML file into a folder of configurations; the override that lets Hydra search there."""
    file = folder / "conf" / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return f"hydra.searchpath=[file://{folder / 'conf'}]"


def trained(folder: Path, *overrides: str) -> Any:
    """Train and return summary.json."""
    with composed_job("train", overrides, folder) as cfg:
        train(cfg)
    return read_json(folder / "summary.json")


def test_a_measure(tmp_path: Path) -> None:
    searched = written(tmp_path, "measure/largest", "_target_: tests.helpers.extensions.LargestChange\n")
    summary = trained(tmp_path / "run", *TINY, "measure=largest", searched)
    assert len(logged(tmp_path / "run", "lsa/largest_change/00_backbone.act1")) == 2  # before and after the epoch
    assert summary["measure"] == "largest_change"


OBJECTIVE = """# @package _global_
defaults:
  - override /callbacks: at

name: pairing
objective:
  _target_: tests.helpers.extensions.LogitPairing
  weight: 0.25
"""


def test_an_objective(tmp_path: Path) -> None:
    searched = written(tmp_path, "experiment/pairing", OBJECTIVE)
    summary = trained(tmp_path / "run", *TINY, "experiment=pairing", searched)
    assert summary["trained"]["objective"] == "LogitPairing(weight=0.25)"


DATA = """# @package _global_
data:
  _target_: tests.helpers.extensions.Rings
  size: 32

threat:
  norm: Linf
  eps: 0.2
  bounds: null

evaluation:
  eps: [0.1, 0.2]
"""


def test_a_data_set(tmp_path: Path) -> None:
    searched = written(tmp_path, "data/rings", DATA)
    summary = trained(tmp_path / "run", *ONE_EPOCH, "data=rings", searched)
    assert (summary["test_samples"], summary["epochs"]) == (32, 1)


LOGGER = """own:
  _target_: tests.helpers.extensions.OwnLogger
"""


def test_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResultLogger, "kinds", [*ResultLogger.kinds])
    taken: list[str] = []

    class Collected(ResultLogger):
        logger_type = OwnLogger

        def log_figure(self, key: str, pixels: np.ndarray, step: int) -> None:
            taken.append(f"figure {key} {pixels.dtype}")

        def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
            taken.append(f"table {key}")

        def log_summary(self, values: Mapping[str, float | str], step: int) -> None:
            taken.append(f"summary {len(values) > 0}")

        def finish(self, failed: bool) -> None:
            taken.append(f"failed {failed}")

    searched = written(tmp_path, "logger/own", LOGGER)
    trained(tmp_path / "run", *TINY, "logger=own", searched)
    assert {entry.split()[0] for entry in taken} == {"figure", "table", "summary", "failed"}
    assert taken[-1] == "failed False"
