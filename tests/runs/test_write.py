"""Files of what the stages found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.hydra_run import read_json
from tests.helpers.tables import FLAGS, TABLE

from lsa_lightning import SustainabilityReport
from lsa_lightning.attacks import FGSM
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage
from lsa_lightning.runs.write import (
    write_analysis,
    write_evaluation,
    write_history,
    write_observed,
    write_table,
    write_training,
)

pytestmark = pytest.mark.usefixtures("undrawn")

HONEST = {"not_deterministic": FLAGS["not_deterministic"]}


def figures(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("figures/*")}


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


IMAGES = {"adversarial_images", "largest_errors"}


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((4, 2), {"decision_boundary"}), ((4, 1, 5, 5), IMAGES), ((4, 3), set()), ((4, 2, 5, 5), set())],
)
def test_classes_points_in_a_plane_and_images_are_drawn(
    tmp_path: Path, shape: tuple[int, ...], drawn: set[str]
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    )
    stage = EvaluationStage({"fgsm": FGSM(0.1)}, [0.1], draw="fgsm", save_examples=3)
    analysis = AnalysisStage({"fgsm": FGSM(0.1)}, mvl_from="fgsm")
    write_observed(stage, model, [(x, torch.tensor([0, 1, 1, 0]))], tmp_path, analysis)
    assert figures(tmp_path) == {"class_accuracy", "confusion", *drawn}
    assert len(pd.read_csv(tmp_path / "classes.csv")) == 4
    assert sum(map(sum, read_json(tmp_path / "classes.json")["adversarial"])) == 4
    assert torch.equal(load_file(tmp_path / "examples.safetensors")["x"], x[:3])


def test_nothing_is_written_where_nothing_is_looked_at(tmp_path: Path) -> None:
    write_observed(EvaluationStage({"fgsm": FGSM(0.1)}, [0.1]), torch.nn.Linear(2, 2), [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_curves_of_training_are_drawn_where_they_were_logged(tmp_path: Path) -> None:
    write_training(tmp_path, 0, "")
    assert figures(tmp_path) == set()
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,1,0.5\n")
    write_training(tmp_path, 0, "")
    assert figures(tmp_path) == {"training"}
