"""summary.json: what it holds, and files of every version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lsa_lightning import SustainabilityReport
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.layers.report import AnalysedEpoch
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.stages import Analysis
from lsa_lightning.runs.summary import AnalysisSummary, RunSummary

LAYERS = ["act1", "act2"]


def report(*means: float) -> SustainabilityReport:
    mean = torch.tensor(means, dtype=torch.float64)
    values = (mean, mean / 2, mean.mean(), mean.std(correction=0))
    return SustainabilityReport(LAYERS, LAYERS, *values, 40, "PGD()", "cosine_distance")


ANALYSIS = AnalysisSummary.of(Analysis({"fgsm": report(0.1, 0.2), "pgd": report(0.3, 0.5)}, "pgd", ["act2"]))
TABLE = RobustnessTable([0.0, 0.1, 0.25], {"fgsm": [90.0, 60, 30], "pgd": [90.0, 50, 20]}, 40, 0.25, [0.0, 0.1], "L2")
FLAGS = {"large_eps": MaskingFlag(None, "no bounds"), "rising": MaskingFlag(True, "50 then 60")}
WHOLE = RunSummary(
    name="moon",
    seed=3,
    trained={"method": "ATLR", "model": "MLP"},
    epochs=2,
    training_seconds=1.25,
    checkpoint="run/best.ckpt",
    checkpoint_epoch=1,
    validation={"val/acc_pgd": 0.5},
    analysis=ANALYSIS,
    evaluation=TABLE,
    masking=FLAGS,
    history=[AnalysedEpoch(0, report(0.1, 0.4), ["act2"]), AnalysedEpoch(1, report(0.2, 0.1), [])],
    versions={"torch": "2.6"},
)
PARTS: list[dict[str, Any]] = [
    {},
    {"analysis": None},
    {"evaluation": None, "masking": {}},
    {"masking": {}},
    {"history": []},
    {"analysis": None, "evaluation": None, "masking": {}, "history": [], "checkpoint": None, "checkpoint_epoch": None},
]


@pytest.mark.parametrize("left_out", PARTS, ids=lambda part: " ".join(part) or "whole")
def test_a_summary_comes_back_from_its_file(tmp_path: Path, left_out: dict[str, Any]) -> None:
    summary = replace(WHOLE, **left_out)
    summary.save(tmp_path)
    again = RunSummary.load(tmp_path)
    assert again.to_dict() == summary.to_dict()
    assert (again.name, again.seed, again.checkpoint_epoch) == ("moon", 3, summary.checkpoint_epoch)
    assert (again.evaluation, again.masking) == (summary.evaluation, summary.masking)
    assert (again.analysis is None) == (summary.analysis is None)
    assert [entry.epoch for entry in again.history] == [entry.epoch for entry in summary.history]


def test_the_analysis_is_that_of_the_attack_the_mvl_comes_from() -> None:
    assert (ANALYSIS.measure, ANALYSIS.mvl_from, ANALYSIS.mvl) == ("cosine_distance", "pgd", ["act2"])
    assert (ANALYSIS.mu, ANALYSIS.sigma) == (pytest.approx(0.4), pytest.approx(0.1))
    assert ANALYSIS.profiles == {"fgsm": {"act1": 0.1, "act2": 0.2}, "pgd": {"act1": 0.3, "act2": 0.5}}


def test_entries_of_stages_that_were_left_out_are_not_in_the_file() -> None:
    values = replace(WHOLE, analysis=None, evaluation=None, masking={}).to_dict()
    assert not {"accuracy", "test_samples", "masking", "profiles", "mvl", "mu", "measure"} & values.keys()
    assert values["version"] == 2


def test_metrics_are_named_by_attack_and_radius() -> None:
    assert WHOLE.metrics == {
        "val/acc_pgd": 0.5,
        "mu": ANALYSIS.mu,
        "sigma": ANALYSIS.sigma,
        "rg_score/fgsm": 150.0,
        "rg_score/pgd": 140.0,
        "accuracy/clean": 90.0,
        "accuracy/fgsm/0.1": 60.0,
        "accuracy/fgsm/0.25": 30.0,
        "accuracy/pgd/0.1": 50.0,
        "accuracy/pgd/0.25": 20.0,
    }
    assert replace(WHOLE, analysis=None, evaluation=None).metrics == {"val/acc_pgd": 0.5}


def test_scores_are_said_with_the_flags_that_were_raised() -> None:
    assert WHOLE.scores_in_words == "150.00 of 200 under fgsm, 140.00 of 200 under pgd; masking flags: rising"
    assert replace(WHOLE, masking={}).scores_in_words == "150.00 of 200 under fgsm, 140.00 of 200 under pgd"
    assert replace(WHOLE, evaluation=None, masking={}).scores_in_words == ""


FIRST: dict[str, Any] = {
    "name": "train",
    "seed": 0,
    "trained": {"model": "lsa_lightning.models.MLP", "method": "ATLR"},
    "epochs": 1,
    "training_seconds": 0.5,
    "checkpoint": "run/best.ckpt",
    "checkpoint_epoch": 0,
    "eps": [0.0, 0.1],
    "accuracy": {"fgsm": [90.0, 60.0]},
    "intervals": {"fgsm": [[80.0, 95.0], [45.0, 73.0]]},
    "rg_score": {"fgsm": 150.0},
    "masking": {"rising": {"raised": False, "seen": "no"}},
    "mvl": ["act2"],
    "relative_error": {"pgd": {"act1": 0.3, "act2": 0.5}, "fgsm": {"act1": 0.1, "act2": 0.2}},
    "mu": 0.4,
    "sigma": 0.1,
    "test_samples": 40,
    "mvl_history": [{"epoch": 0, "mvl": ["act2"], "mu": 0.25, "sigma": 0.1, "layers": LAYERS, "mean": [0.1, 0.4]}],
    "versions": {"torch": "2.6"},
}
"""A file of version 1, which had no number."""


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(FIRST))
    summary = RunSummary.load(tmp_path)
    assert summary.analysis is not None
    assert vars(summary.analysis) == {
        "measure": "relative_error",
        "mvl_from": "pgd",
        **{key: FIRST[key] for key in ("mvl", "mu", "sigma")},
        "profiles": FIRST["relative_error"],
        "threshold": None,
    }
    assert summary.evaluation == RobustnessTable([0.0, 0.1], {"fgsm": [90.0, 60.0]}, 40)
    assert summary.evaluation.rg_score == FIRST["rg_score"]
    (entry,) = summary.history
    assert (entry.epoch, entry.mvl, entry.report.profile) == (0, ["act2"], {"act1": 0.1, "act2": 0.4})
    assert (float(entry.report.mu), entry.report.measure) == (0.25, "relative_error")
    assert summary.validation == {}


def test_a_file_of_the_first_version_is_written_anew_as_todays(tmp_path: Path) -> None:
    RunSummary.from_dict(FIRST).save(tmp_path)
    again = RunSummary.load(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["version"] == 2
    assert again.metrics == RunSummary.from_dict(FIRST).metrics


def refused(folder: Path, values: Any) -> str:
    (folder / "summary.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"expected .*summary.json to ") as caught:
        RunSummary.load(folder)
    return str(caught.value)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, {**WHOLE.to_dict(), "version": 3})
    assert "it has version 3, and this release of lsa-lightning reads up to version 2" in message


@pytest.mark.parametrize("keys", [("name",), ("seed", "training_seconds")])
def test_missing_entries_are_named(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values = {key: value for key, value in WHOLE.to_dict().items() if key not in keys}
    assert f"found no {', '.join(keys)} in it" in refused(tmp_path, values)


@pytest.mark.parametrize("key", ["test_samples", "mvl_from", "eps"])
def test_a_missing_entry_of_a_stage_is_named(tmp_path: Path, key: str) -> None:
    values = WHOLE.to_dict()
    del values[key]
    message = refused(tmp_path, values)
    assert key.removeprefix("test_") in message


@pytest.mark.parametrize("entry", [{"epoch": 0}, {"epoch": 0, "mvl": []}, 3])
def test_a_broken_epoch_is_refused(tmp_path: Path, entry: Any) -> None:
    refused(tmp_path, {**WHOLE.to_dict(), "mvl_history": [entry]})


def test_a_list_is_refused(tmp_path: Path) -> None:
    assert "to hold a mapping, got list" in refused(tmp_path, [])
