"""Files of what the stages found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from tests.helpers.hydra_run import leave_empty, read_json
from tests.helpers.tables import FLAGS, OTHER, ROWS, TABLE

from lsa_lightning import SustainabilityReport
from lsa_lightning.attacks import FGSM
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.stages import Analysis, Evaluation
from lsa_lightning.runs.write import (
    draw_inputs,
    short_names,
    write_analysis,
    write_comparison,
    write_evaluation,
    write_history,
    write_table,
)

HONEST = {"not_deterministic": FLAGS["not_deterministic"]}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of figures are empty: drawing takes long."""
    monkeypatch.setattr(Figure, "savefig", leave_empty)


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


def test_the_table_of_one_model_has_no_checkpoint(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path)
    assert list(pd.read_csv(tmp_path / "evaluation.csv").columns) == [
        *("attack", "eps", "training", "accuracy", "low", "high", "at_most", "masking")
    ]
    assert figures(tmp_path) == {"accuracy"}


@pytest.mark.parametrize(("flags", "words"), [({}, "not checked"), (FLAGS, "black_box_stronger"), (HONEST, "none")])
def test_every_row_of_the_table_says_which_flags_were_raised(
    flags: dict[str, MaskingFlag], words: str, tmp_path: Path
) -> None:
    write_evaluation(Evaluation(TABLE, flags), tmp_path)
    assert set(pd.read_csv(tmp_path / "evaluation.csv", keep_default_na=False).masking) == {words}


def test_an_analysis_has_a_file_per_attack_and_one_table(tmp_path: Path) -> None:
    mean = torch.tensor([0.1, 0.3], dtype=torch.float64)
    reports = {
        name: SustainabilityReport(
            ["a", "b"], ["c", "d"], mean, mean, mean.mean(), mean.std(), 5, name, "cosine_distance"
        )
        for name in ("pgd", "fgsm")
    }
    write_analysis(Analysis(reports, "pgd", ["b"]), tmp_path)
    frame = pd.read_csv(tmp_path / "profile.csv")
    assert list(frame.columns) == ["attack", "layer", "learnable", "measure", "mean", "std", "z_score"]
    assert frame["attack"].tolist() == ["pgd", "pgd", "fgsm", "fgsm"]
    assert set(frame["measure"]) == {"cosine_distance"}
    assert SustainabilityReport.load(tmp_path / "profile_fgsm.json").to_dict() == reports["fgsm"].to_dict()
    assert figures(tmp_path) == {"layer_profile"}


def test_no_analysed_epoch_gives_no_figure(tmp_path: Path) -> None:
    write_history([], tmp_path)
    assert figures(tmp_path) == set()


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((4, 2), {"decision_boundary"}), ((4, 1, 5, 5), {"adversarial_images"}), ((4, 3), set()), ((4, 2, 5, 5), set())],
)
def test_points_in_a_plane_and_images_are_drawn(tmp_path: Path, shape: tuple[int, ...], drawn: set[str]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 2))
    draw_inputs(model, [(x, torch.tensor([0, 1, 1, 0]))], FGSM(0.1), tmp_path)
    assert figures(tmp_path) == drawn


def test_checkpoints_get_short_names() -> None:
    assert short_names(["only"]) == {"only": ""}
    assert list(short_names([str(i) for i in range(28)]).values()) == [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "27", "28"]
