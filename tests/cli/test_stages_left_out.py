"""lsa-train without some of its stages, and what the other entry points make of such a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.html import Page
from tests.helpers.hydra_run import FEW_CHECKS, main_in_process, read_json, tiny_without, train_tiny

from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.cli.train import main
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.summary import RunSummary

OPTIONS = {
    "analysis": ("analysis=null",),
    "evaluation": ("evaluation=null",),
    "both": ("analysis=null", "evaluation=null"),
    "masking": ("evaluation.masking=null",),
    "removed": ("~analysis",),
}


@pytest.fixture(params=OPTIONS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """What was left out, and the run folder."""
    train_tiny(tmp_path / "run", *OPTIONS[request.param])
    return request.param, tmp_path / "run"


def test_single_attacks_are_left_out_by_null(tmp_path: Path) -> None:
    left_out = ("analysis.attacks.speckle=null", "evaluation.attacks.fgsm=null", "evaluation.masking=null")
    train_tiny(tmp_path / "run", *left_out)
    summary = RunSummary.load(tmp_path / "run")
    assert summary.analysis is not None
    assert summary.evaluation is not None
    assert "speckle" not in summary.analysis.profiles
    assert set(summary.evaluation.accuracy) == {"pgd", "exact"}


def test_what_is_left_out_is_not_there_and_can_be_measured_later(case: tuple[str, Path], tmp_path: Path) -> None:
    what, run = case
    summary = RunSummary.load(run)
    analysed, evaluated = what not in ("analysis", "both", "removed"), what not in ("evaluation", "both")
    assert (summary.analysis is not None, summary.evaluation is not None) == (analysed, evaluated)
    assert bool(summary.masking) == (evaluated and what != "masking")
    assert (run / "profile.csv").is_file() == analysed
    assert (run / "evaluation.json").is_file() == evaluated
    assert [entry.epoch for entry in summary.history] == [0]

    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    main_in_process(analyze_main, checkpoint, "analysis.attacks.pgd.steps=2", f"hydra.run.dir={tmp_path}/a")
    few_steps = ("evaluation.attacks.pgd.steps=2", *FEW_CHECKS)
    main_in_process(evaluate_main, checkpoint, *few_steps, f"hydra.run.dir={tmp_path}/e")
    assert read_json(tmp_path / "a" / "profile_pgd.json")["samples"] == 40
    table = read_json(tmp_path / "e" / "evaluation.json")
    assert (table["eps"], table["training_eps"]) == ([0.0, 0.1, 0.3], 0.3)
    page = Page(write_report([run], tmp_path / "page.html")[0].read_text())
    assert ("Not measured" in page.text) == (not evaluated)
    assert ("Not checked" in page.text) == (not summary.masking)
    assert ("layers" in page.tables) == analysed


def test_null_is_understood_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ("analysis=null", "evaluation=null", "logger=null")
    main_in_process(main, *tiny_without("analysis", "evaluation"), *typed, f"hydra.run.dir={tmp_path}")
    assert {"summary.json", "config.yaml", "checkpoints"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "metrics.csv").exists()
    assert "Trained in" in capsys.readouterr().out


def test_without_a_logger_every_stage_runs(tmp_path: Path) -> None:
    train_tiny(tmp_path, "logger=null")
    assert RunSummary.load(tmp_path).evaluation is not None
    assert not (tmp_path / "metrics.csv").exists()


def test_a_training_radius_that_was_not_asked_for_is_a_marked_column_outside_of_the_score(tmp_path: Path) -> None:
    printed = train_tiny(tmp_path / "with", "evaluation.eps=[0.1,0.2]", "attack.eps=0.25", "evaluation.masking=null")
    train_tiny(tmp_path / "without", "evaluation.eps=[0.1,0.2]", "attack.eps=0.25", "evaluation.training_eps=null")
    table, plain = (read_json(tmp_path / name / "summary.json") for name in ("with", "without"))
    assert (table["eps"], table["training_eps"], table["rg_eps"]) == ([0.0, 0.1, 0.2, 0.25], 0.25, [0.0, 0.1, 0.2])
    assert (plain["eps"], plain["training_eps"]) == ([0.0, 0.1, 0.2], None)
    assert table["rg_score"] == plain["rg_score"]
    assert table["accuracy"]["pgd"][:3] == plain["accuracy"]["pgd"]
    assert "training" in printed
    assert "False" in (tmp_path / "with" / "evaluation.csv").read_text()
    marked = [line for line in (tmp_path / "with" / "evaluation.csv").read_text().splitlines() if ",True," in line]
    assert [line.split(",")[:2] for line in marked] == [[row, "0.25"] for row in ("fgsm", "pgd", "exact", "ceiling")]


def test_clean_training_has_no_radius(tmp_path: Path) -> None:
    train_tiny(tmp_path, "experiment=moon_normal")
    assert read_json(tmp_path / "summary.json")["training_eps"] is None
