"""Tables of accuracies and masking flags, on the terminal and in the run folder."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from tests.helpers.hydra_run import read_json

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.masking.flags import MaskingFlag
from lsa_lightning.runs import console as console_module
from lsa_lightning.runs import stages
from lsa_lightning.runs.console import print_accuracies, print_masking
from lsa_lightning.runs.stages import Evaluation, write_comparison

EPS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
ROWS = {"fgsm": [100.0, 90, 80, 70, 60, 50.125], "square": [100.0, 80, 60, 40, 20, 0.0]}
TABLE = RobustnessTable(EPS, ROWS, 10000)
OTHER = RobustnessTable(EPS, {name: [a / 2 for a in row] for name, row in ROWS.items()}, 10000)
FLAGS = {
    "not_deterministic": MaskingFlag(False, "no change"),
    "black_box_stronger": MaskingFlag(True, "Square fools 9 of 20 samples"),
    "full_range_above_chance": MaskingFlag(None, "does not apply: the inputs have no bounds"),
}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> io.StringIO:
    """What goes to the terminal, 80 columns wide unless the test says otherwise."""
    text = io.StringIO()
    for module in (console_module, stages):
        monkeypatch.setattr(module, "console", Console(file=text, width=getattr(request, "param", 80)))
    return text


@pytest.mark.parametrize("printed", [80, 120], indirect=True)
def test_a_row_of_accuracies_above_a_row_of_intervals(printed: io.StringIO) -> None:
    print_accuracies({"": TABLE})
    lines = printed.getvalue().splitlines()
    assert "(10000 samples)" in lines[0]
    head = next(i for i, line in enumerate(lines) if "fgsm" in line)
    assert lines[head].split() == ["fgsm", "100.00", "90.00", "80.00", "70.00", "60.00", "50.12", "450.12"]
    intervals = ["100-100", "89.4-90.6", "79.2-80.8", "69.1-70.9", "59.0-61.0", "49.1-51.1"]
    assert lines[head + 1].split() == intervals
    assert [f"eps {e:g}" in printed.getvalue() for e in EPS[1:]] == [True] * 5


def test_two_checkpoints_fit_80_columns_side_by_side(printed: io.StringIO) -> None:
    print_accuracies({"A": TABLE, "B": OTHER})
    lines = printed.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in printed.getvalue()
    rows = [line.split() for line in lines if "square" in line or "fgsm" in line]
    assert [row[:3] for row in rows] == [
        ["fgsm", "A", "100.00"],
        ["fgsm", "B", "50.00"],
        ["square", "A", "100.00"],
        ["square", "B", "50.00"],
    ]


def test_flags_that_are_raised_or_do_not_apply_are_named(printed: io.StringIO) -> None:
    print_masking(FLAGS)
    assert printed.getvalue().splitlines() == [
        "Masking checks: 1 raised of 2",
        "  black_box_stronger: Square fools 9 of 20 samples",
        "  full_range_above_chance: does not apply: the inputs have no bounds",
    ]


def test_without_checks_nothing_is_said(printed: io.StringIO) -> None:
    print_masking({})
    assert printed.getvalue() == ""


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: Path(path).touch())


@pytest.mark.usefixtures("_no_figures")
def test_a_single_checkpoint_is_written_flat(printed: io.StringIO, tmp_path: Path) -> None:
    write_comparison({"run/a.ckpt": Evaluation(TABLE, FLAGS)}, tmp_path)
    found = read_json(tmp_path / "evaluation.json")
    assert found["checkpoint"] == "run/a.ckpt"
    assert found["accuracy"] == ROWS
    assert found["intervals"]["fgsm"][2] == pytest.approx(TABLE.intervals["fgsm"][2])
    assert found["masking"]["black_box_stronger"] == {"raised": True, "seen": "Square fools 9 of 20 samples"}
    assert found["masking"]["full_range_above_chance"]["raised"] is None
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"accuracy.png", "accuracy.svg"}
    assert "a.ckpt" not in printed.getvalue()


@pytest.mark.usefixtures("_no_figures")
def test_several_checkpoints_are_written_side_by_side(printed: io.StringIO, tmp_path: Path) -> None:
    write_comparison({"run/a.ckpt": Evaluation(TABLE, FLAGS), "run/b.ckpt": Evaluation(OTHER, {})}, tmp_path)
    entries = read_json(tmp_path / "evaluation.json")["checkpoints"]
    assert [entry["checkpoint"] for entry in entries] == ["run/a.ckpt", "run/b.ckpt"]
    assert [entry["rg_score"]["square"] for entry in entries] == [300.0, 150.0]
    frame = pd.read_csv(tmp_path / "evaluation.csv")
    assert list(frame.columns) == ["checkpoint", "attack", "eps", "accuracy", "low", "high"]
    assert len(frame) == 24
    row = frame[(frame.checkpoint == "run/b.ckpt") & (frame.attack == "fgsm") & (frame.eps == 0.1)].iloc[0]
    assert (row.accuracy, row.low, row.high) == pytest.approx((45.0, *OTHER.intervals["fgsm"][1]))
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {f"accuracy_{attack}" for attack in ROWS}
    assert "A: run/a.ckpt" in printed.getvalue()
    assert "B: run/b.ckpt" in printed.getvalue()
