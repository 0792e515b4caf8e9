"""Which folders count as runs, and what is said about those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.hydra_run import read_json, train_tiny
from tests.helpers.run_copies import copy_run

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.read import find_runs, read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture
def sweep(run: Path, tmp_path: Path) -> Path:
    """Twelve jobs and what Hydra writes beside them."""
    for job in range(12):
        copy_run(run, tmp_path / "sweep" / str(job), seed=job)
    (tmp_path / "sweep" / "multirun.yaml").touch()
    (tmp_path / "sweep" / ".submitit").mkdir()
    return tmp_path / "sweep"


def test_a_run_is_read_back(run: Path) -> None:
    found = read_run(run)
    summary = read_json(run / "summary.json")
    assert (found.name, found.summary.to_dict()) == ("train", summary)
    assert found.config["data"]["test_size"] == 40
    assert list(found.reports) == ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    assert found.reports["fgsm"].mean.tolist() == list(summary["profiles"]["fgsm"].values())
    evaluation = read_json(run / "evaluation.json")
    assert found.summary.evaluation == RobustnessTable.from_dict(evaluation)


def test_a_profile_that_was_removed_is_left_out(run: Path, tmp_path: Path) -> None:
    copy_run(run, tmp_path / "copy")
    (tmp_path / "copy" / "profile_salt.json").unlink()
    assert "salt" not in read_run(tmp_path / "copy").reports


def test_a_sweep_expands_to_its_jobs_in_the_order_of_their_numbers(sweep: Path) -> None:
    runs, unfinished = find_runs([sweep])
    assert [run.folder.name for run in runs] == [str(job) for job in range(12)]
    assert [run.summary.seed for run in runs] == list(range(12))
    assert unfinished == []


def test_unfinished_jobs_of_a_sweep_are_named(sweep: Path) -> None:
    (sweep / "3" / "summary.json").unlink()
    runs, unfinished = find_runs([sweep])
    assert unfinished == [sweep / "3"]
    assert len(runs) == 11


def test_runs_and_sweeps_may_be_mixed(run: Path, sweep: Path) -> None:
    assert [found.folder for found in find_runs([run, sweep])[0]][:2] == [run, sweep / "0"]


def error_of(*paths: Path) -> str:
    with pytest.raises(ValueError, match="expected") as caught:
        find_runs(paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unfinished_run_is_an_error(run: Path, tmp_path: Path) -> None:
    copy_run(run, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    message = error_of(tmp_path / "copy")
    assert f"expected {tmp_path / 'copy' / 'summary.json'}" in message
    assert "found only .hydra, checkpoints, config.yaml" in message
    assert "the run has not ended" in message


def test_a_sweep_without_a_finished_job_is_an_error(sweep: Path) -> None:
    for job in sweep.glob("*/summary.json"):
        job.unlink()
    assert f"expected a finished run in {sweep}, found no summary.json in its 12 job folders" in error_of(sweep)


def test_other_folders_are_an_error(tmp_path: Path) -> None:
    assert f"found nothing in {tmp_path}" in error_of(tmp_path)
    (tmp_path / "x.txt").touch()
    (tmp_path / "photos").mkdir()
    message = error_of(tmp_path)
    assert "expected a run folder of lsa-train (config.yaml, summary.json)" in message
    assert f"found photos, x.txt in {tmp_path}" in message


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    assert f"found a file at {tmp_path / 'x.txt'}" in error_of(tmp_path / "x.txt")
    assert f"found nothing at {tmp_path / 'y'}" in error_of(tmp_path / "y")


def test_a_run_named_twice_is_an_error(sweep: Path) -> None:
    message = error_of(sweep, sweep / "5" / ".." / "4")
    assert "expected each run once" in message
    assert str(sweep / "4") in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("summary.json", "{", "to be readable, got Expecting property name"),
        ("summary.json", "[]", "to hold a mapping, got list"),
        ("summary.json", '{"name": "x"}', "found no seed, trained, epochs"),
        ("config.yaml", "a: [\n", "to be readable, got while parsing"),
        ("config.yaml", "- 1", "to hold a mapping, got list"),
    ],
)
def test_broken_files_are_an_error(run: Path, tmp_path: Path, name: str, content: str, expected: str) -> None:
    copy_run(run, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(content)
    message = error_of(tmp_path / "copy")
    assert expected in message
    assert str(tmp_path / "copy" / name) in message
