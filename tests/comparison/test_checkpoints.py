"""Checkpoints that were evaluated side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.helpers.hydra_run import read_json
from tests.helpers.tables import FLAGS, OTHER, ROWS, TABLE

from lsa_lightning.comparison.checkpoints import checkpoint_labels, write_comparison
from lsa_lightning.runs.stages import Evaluation

pytestmark = pytest.mark.usefixtures("undrawn")


def figures(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("figures/*")}


def test_a_single_checkpoint_is_written_flat(tmp_path: Path) -> None:
    write_comparison({"run/a.ckpt": Evaluation(TABLE, FLAGS)}, tmp_path)
    found = read_json(tmp_path / "evaluation.json")
    assert found["checkpoint"] == "run/a.ckpt"
    assert found["accuracy"] == ROWS
    assert found["intervals"]["fgsm"][2] == pytest.approx(TABLE.intervals["fgsm"][2])
    assert found["masking"]["black_box_stronger"] == {"raised": True, "seen": "Square fools 9 of 20 samples"}
    assert found["masking"]["full_range_above_chance"]["raised"] is None
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"accuracy.png", "accuracy.svg"}


def test_several_checkpoints_are_written_side_by_side(tmp_path: Path) -> None:
    write_comparison({"run/a.ckpt": Evaluation(TABLE, FLAGS), "run/b.ckpt": Evaluation(OTHER, {})}, tmp_path)
    entries = read_json(tmp_path / "evaluation.json")["checkpoints"]
    assert [entry["checkpoint"] for entry in entries] == ["run/a.ckpt", "run/b.ckpt"]
    assert [entry["rg_score"]["square"] for entry in entries] == [300.0, 150.0]
    frame = pd.read_csv(tmp_path / "evaluation.csv")
    columns = ["attack", "eps", "training", "accuracy", "low", "high", "at_most", "masking"]
    assert list(frame.columns) == ["checkpoint", *columns]
    assert len(frame) == 24
    row = frame[(frame.checkpoint == "run/b.ckpt") & (frame.attack == "fgsm") & (frame.eps == 0.1)].iloc[0]
    assert (row.accuracy, row.low, row.high) == pytest.approx((45.0, *OTHER.intervals["fgsm"][1]))
    assert figures(tmp_path) == {f"accuracy_{attack}" for attack in ROWS}


@pytest.mark.parametrize(
    ("checkpoints", "labels"),
    [
        (["only"], [""]),
        (["r/checkpoints/best.ckpt", "r/checkpoints/last.ckpt"], ["best", "last"]),
        (["runs/at/1/checkpoints/best.ckpt", "runs/at_lr/2/checkpoints/best.ckpt"], ["at/1", "at_lr/2"]),
        (["a.ckpt", "b/a.ckpt"], ["a.ckpt", "b/a.ckpt"]),
    ],
)
def test_checkpoints_are_labelled_by_what_differs_in_their_paths(checkpoints: list[str], labels: list[str]) -> None:
    assert checkpoint_labels(checkpoints) == dict(zip(checkpoints, labels, strict=True))
