"""Runs of before 0.1.0: their config.yaml still leads from a checkpoint to its model, data, threat and radii."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tests.helpers.html import Page
from tests.helpers.hydra_run import FEW_CHECKS, main_in_process, read_json, train_tiny
from tests.helpers.run_copies import copy_run

from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.folder import write_json


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture
def old(new: Path, tmp_path: Path) -> Path:
    """The same run with the files that lsa-train wrote before."""
    folder = copy_run(new, tmp_path / "old")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.threat = {"eps": cfg.threat.eps, "bounds": cfg.threat.bounds, "eval_eps": cfg.evaluation.eps}
    cfg.attack.norm = "Linf"
    cfg.evaluation.max_batches = cfg.analysis.max_batches = None
    cfg.analysis.perturbers = cfg.analysis.attacks
    for key in ("measure", "optimized_metric"):
        del cfg[key]
    for key in ("_target_", "attacks", "mvl_from", "limit_batches"):
        del cfg.analysis[key]
    for key in ("_target_", "training_eps", "limit_batches", "draw", "eps"):
        del cfg.evaluation[key]
    OmegaConf.save(cfg, folder / "config.yaml")
    summary = read_json(folder / "summary.json")
    for key in ("version", "validation", "measure", "mvl_from", "rg_eps", "training_eps", "norm"):
        del summary[key]
    summary["relative_error"] = summary.pop("profiles")
    kept = ("epoch", "mvl", "mu", "sigma", "layers", "mean")
    summary["mvl_history"] = [{key: entry[key] for key in kept} for entry in summary["mvl_history"]]
    write_json(summary, folder / "summary.json")
    for file in folder.glob("profile_*.json"):
        report = read_json(file)
        report["perturber"] = report.pop("attack")
        write_json({**report, "measure": "RelativeError()"}, file)
    return folder


def test_lsa_analyze_finds_the_same(new: Path, old: Path, tmp_path: Path) -> None:
    options = ("analysis.attacks.pgd.steps=2", f"hydra.run.dir={tmp_path}/out")
    main_in_process(analyze_main, f"ckpt_path={old}/checkpoints/best.ckpt", *options)
    for name in ("pgd", "fgsm", "salt"):
        assert read_json(tmp_path / "out" / f"profile_{name}.json") == read_json(new / f"profile_{name}.json")
    assert OmegaConf.load(tmp_path / "out" / "config.yaml").threat == {"norm": "Linf", "eps": 0.3, "bounds": None}


def test_lsa_evaluate_finds_the_same(new: Path, old: Path, tmp_path: Path) -> None:
    options = ("evaluation.attacks.pgd.steps=2", *FEW_CHECKS, f"hydra.run.dir={tmp_path}/out")
    main_in_process(evaluate_main, f"ckpt_path={old}/checkpoints/best.ckpt", *options)
    found, expected = read_json(tmp_path / "out" / "evaluation.json"), read_json(new / "evaluation.json")
    assert {key: found[key] for key in expected} == expected


def test_old_and_new_runs_stand_in_one_comparison(new: Path, old: Path, tmp_path: Path) -> None:
    page = Page(write_report([new, old], tmp_path / "page.html")[0].read_text())
    assert "Comparison of 2 runs" in page.text
    assert "cannot be compared" not in page.text
    titles = [row[0] for row in page.tables["results"][1:] if len(row) == 1]
    assert titles[:3] == ["clean accuracy", "accuracy under fgsm, eps 0.3", "accuracy under pgd, eps 0.3"]
    ceilings = [row for row in page.tables["results"] if row[0] == "ceiling"]  # of the new run alone
    assert len(page.tables["results"]) == 1 + 3 * len(titles) + len(ceilings)
    (first, *row) = page.tables["layers"][1]
    assert first == "backbone.act1"
    assert row[0] == row[1]


def test_an_old_run_has_a_page(old: Path, tmp_path: Path) -> None:
    page = Page(write_report([old], tmp_path / "page.html")[0].read_text())
    assert page.tables["layers"][0][2:] == ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    assert page.tables["accuracy"][0] == ["attack", "clean", "eps 0.1", "eps 0.3", "R&G of 300"]
    assert len(page.tables["mvl-history"]) == 2
