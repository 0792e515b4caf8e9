"""The metric that a sweeper gets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.hydra_run import TINY, composed_job, read_json, undrawn

from lsa_lightning.cli.train import _main
from lsa_lightning.jobs.job import Job
from lsa_lightning.jobs.optimized_metric import check_optimized_metric, optimized
from lsa_lightning.jobs.train import train
from lsa_lightning.runs.summary import RunSummary

NAMES = ["mu", "sigma", "accuracy/clean", "accuracy/fgsm/0.1", "accuracy/pgd/0.3", "rg_score/fgsm", "rg_score/pgd"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def summary(folder: Path) -> RunSummary:
    with undrawn(), composed_job("train", TINY, folder / "run") as cfg:
        summary = train(cfg)
    assert summary is not None
    return summary


@pytest.fixture(scope="module")
def job(folder: Path) -> Job:
    with composed_job("train", TINY, folder / "not_run") as cfg:
        return Job.of(cfg)


@pytest.mark.parametrize("name", [*NAMES, "val/acc_pgd", "val/rg_score"])
def test_every_metric_of_the_summary_can_be_optimised(summary: RunSummary, job: Job, name: str) -> None:
    check_optimized_metric(name, job.evaluation)
    assert optimized(summary, name) == summary.metrics[name]
    assert math.isfinite(optimized(summary, name))


def test_the_figures_are_those_of_the_file(summary: RunSummary, folder: Path) -> None:
    values = read_json(folder / "run" / "summary.json")
    assert optimized(summary, "rg_score/pgd") == values["rg_score"]["pgd"]
    assert optimized(summary, "accuracy/pgd/0.3") == values["accuracy"]["pgd"][2]
    assert optimized(summary, "val/acc_pgd") == values["validation"]["val/acc_pgd"]


def test_null_is_no_metric(summary: RunSummary, job: Job) -> None:
    check_optimized_metric(None, job.evaluation)
    assert math.isnan(optimized(summary, None))


@pytest.mark.parametrize("name", ["rg_score/square", "accuracy/pgd/0.2", "accuracy/pgd", "R&G", ""])
def test_what_no_stage_measures_is_refused_with_the_names(job: Job, name: str) -> None:
    with pytest.raises(ValueError, match="expected optimized_metric to be one of mu, sigma, accuracy/clean") as caught:
        check_optimized_metric(name, job.evaluation)
    assert all(known in str(caught.value) for known in NAMES)
    assert f"a val/... of training, or null, got {name!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["rg_score/pgd", "accuracy/clean", "mu", "sigma"])
def test_that_of_a_stage_that_was_left_out_is_nan(summary: RunSummary, name: str) -> None:
    check_optimized_metric(name, None)
    assert math.isnan(optimized(replace(summary, analysis=None, evaluation=None), name))


def test_a_validation_metric_that_was_not_logged_is_refused_with_those_that_were(summary: RunSummary, job: Job) -> None:
    check_optimized_metric("val/nothing", job.evaluation)  # before training nobody knows what the user's module logs
    with pytest.raises(ValueError, match=r"among what validation logged, .*val/acc_pgd.*, got 'val/nothing'"):
        optimized(summary, "val/nothing")


def test_the_job_returns_it(tmp_path: Path) -> None:
    with undrawn(), composed_job("train", [*TINY, "optimized_metric=accuracy/fgsm/0.1"], tmp_path) as cfg:
        value = _main.__wrapped__(cfg)
    assert value == read_json(tmp_path / "summary.json")["accuracy"]["fgsm"][1]
