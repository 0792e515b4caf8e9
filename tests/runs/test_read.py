"""Which folders count as runs, and what is said about those that do not."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hydra_run import read_json, train_tiny
from tests.helpers.run_copies import copy_run, edit_summary

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.read import LeftOut, find_jobs, read_run
from lsa_lightning.runs.status import State, Status


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture
def sweep(run: Path, tmp_path: Path) -> Path:
    """Twelve jobs and what Hydra writes beside them."""
    return sweep_of(run, tmp_path, range(12))


@pytest.fixture
def few(run: Path, tmp_path: Path) -> Path:
    """Three jobs."""
    return sweep_of(run, tmp_path, (6, 7, 8))


def sweep_of(run: Path, tmp_path: Path, jobs: Iterable[int]) -> Path:
    for job in jobs:
        shutil.copytree(run, tmp_path / "sweep" / str(job))
        edit_summary(tmp_path / "sweep" / str(job), seed=job)
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


def test_a_profile_that_is_missing_or_cut_costs_no_more_than_itself(run: Path, tmp_path: Path) -> None:
    copy_run(run, tmp_path / "copy")
    (tmp_path / "copy" / "profile_salt.json").unlink()
    (tmp_path / "copy" / "profile_pgd.json").write_text("{")
    found = read_run(tmp_path / "copy")
    assert list(found.reports) == ["fgsm", "gaussian", "speckle", "pepper"]
    cut, missing = found.unread
    assert missing == f"{tmp_path / 'copy' / 'profile_salt.json'}: No such file or directory"
    assert str(tmp_path / "copy" / "profile_pgd.json") in cut


def test_a_sweep_expands_to_its_jobs_in_the_order_of_their_numbers(sweep: Path) -> None:
    jobs = find_jobs([sweep])
    assert [run.folder.name for run in jobs.runs] == [str(job) for job in range(12)]
    assert [run.summary.seed for run in jobs.runs] == list(range(12))
    assert jobs.left_out == []


def test_jobs_are_found_at_any_depth_in_the_order_of_their_numbers(few: Path, tmp_path: Path) -> None:
    for i, name in enumerate(["gamma=0.1,seed=0", "gamma=0.03,seed=0", "eps=8/255/seed=1"]):
        (tmp_path / "all" / "2026" / name).parent.mkdir(parents=True, exist_ok=True)
        (few / str(i + 6)).rename(tmp_path / "all" / "2026" / name)
    names = [str(run.folder.relative_to(tmp_path / "all")) for run in find_jobs([tmp_path / "all"]).runs]
    assert names == ["2026/eps=8/255/seed=1", "2026/gamma=0.03,seed=0", "2026/gamma=0.1,seed=0"]


def test_links_lead_to_no_job_twice(few: Path) -> None:
    (few / "0_latest").symlink_to(few / "7")
    (few / "0_loop").symlink_to(few)
    assert [run.folder.name for run in find_jobs([few]).runs] == ["6", "7", "8"]


def test_hidden_folders_and_those_of_other_entry_points_are_no_jobs(few: Path) -> None:
    for name in ("7/.hydra", ".archive/0", "evaluate"):
        (few / name).mkdir(parents=True, exist_ok=True)
        (few / name / "config.yaml").write_text("ckpt_path: x\nname: evaluate\n")
    jobs = find_jobs([few])
    assert (len(jobs.runs), jobs.left_out) == (3, [])


def test_jobs_that_have_not_finished_are_left_out_with_their_state(sweep: Path) -> None:
    Status(State.RUNNING, epoch=7).save(sweep / "1")
    Status(State.INTERRUPTED, reason="SIGTERM").save(sweep / "2")
    Status(State.FAILED, reason="ValueError: expected x, got y").save(sweep / "3")
    Status(State.FINISHED).save(sweep / "4")
    for name in ("summary.json", "status.json"):  # as in a folder of before 0.2
        (sweep / "5" / name).unlink()
    Status(State.FINISHED).save(sweep / "6")
    (sweep / "6" / "summary.json").unlink()
    jobs = find_jobs([sweep])
    assert [run.folder.name for run in jobs.runs] == ["0", "4", *map(str, range(7, 12))]
    running, interrupted, failed, unknown, unreadable = jobs.left_out
    updated = Status.load(sweep / "1").updated[:10]  # type: ignore[union-attr]
    assert (running.folder, running.state) == (sweep / "1", "running")
    assert running.detail.startswith(f"last updated {updated} ")
    assert running.detail.endswith(" UTC, epochs done: 7")
    assert (interrupted.state, interrupted.detail.partition(";")[0]) == ("interrupted", "SIGTERM")
    assert (failed.state, failed.detail.partition(";")[0]) == ("failed", "ValueError: expected x, got y")
    assert (unknown.folder, unknown.state) == (sweep / "5", "unknown")
    assert (unreadable.state, unreadable.detail[:15]) == ("unreadable", "no summary.json")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("summary.json", b"{", "to be readable, got Expecting property name"),
        ("summary.json", b"[]", "to hold a mapping, got list"),
        ("summary.json", b'{"name": "x"}', "found no seed, trained, epochs"),
        ("summary.json", b"\x89PNG\xff\x00", "to be readable, got 'utf-8' codec"),
        ("config.yaml", b"a: [\n", "to be readable, got while parsing"),
        ("config.yaml", b"a: ${", "to be readable, got no viable alternative"),
        ("config.yaml", b"- 1", "to hold a mapping, got list"),
        ("config.yaml", b"1", "to be readable"),
        ("config.yaml", b"", "to hold the configuration of a run, found it empty"),
        ("config.yaml", b"\xff\xfe\x00", "to be readable, got 'utf-8' codec"),
        ("status.json", b'{"state": ', "to be readable"),
    ],
)
def test_a_broken_file_is_the_problem_of_its_job_alone(few: Path, name: str, content: bytes, expected: str) -> None:
    (few / "7" / name).write_bytes(content)
    jobs = find_jobs([few])
    (broken,) = jobs.left_out
    assert len(jobs.runs) == 2
    assert (broken.folder, broken.state) == (few / "7", "unreadable")
    assert str(few / "7" / name) in broken.detail
    assert expected in broken.detail
    assert "\n" not in broken.detail
    assert f"expected a finished run, found {few / '7'}: unreadable, " in error_of(few / "7")


@pytest.mark.parametrize(
    "entries",
    [
        {"seed": "0"},
        {"trained": ["x"]},
        {"accuracy": {"pgd": [90.0]}},
        {"accuracy": {"pgd": [90.0, None, 0.0]}},
        {"test_samples": 0},
        {"profiles": {"pgd": {"a": "x"}}},
        {"mvl_from": "nobody"},
    ],
)
def test_values_that_no_table_can_show_are_noticed_where_they_are_read(few: Path, entries: dict[str, Any]) -> None:
    edit_summary(few / "7", **entries)
    (broken,) = find_jobs([few]).left_out
    assert (broken.state, broken.folder) == ("unreadable", few / "7")
    assert f"expected {few / '7' / 'summary.json'}" in broken.detail


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
def test_a_file_that_may_not_be_read_is_the_problem_of_its_job_alone(
    few: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of these tests may be root, who may read everything."""
    forbidden = str(few / "7" / name)

    def open_or_refuse(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return real(file, *args, **options)

    real = io.open
    for name_of_open in ("io.open", "builtins.open", "pathlib.Path.open"):  # that of Python 3.10 keeps its own io.open
        monkeypatch.setattr(name_of_open, open_or_refuse)
    (broken,) = find_jobs([few]).left_out
    assert (broken.folder, broken.state) == (few / "7", "unreadable")
    assert f"{forbidden}" in broken.detail
    assert "Permission denied" in broken.detail


def test_a_folder_that_vanishes_is_its_own_problem_alone(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(folder: Path) -> Status | None:
        if folder.name == "6":
            shutil.rmtree(folder)
        return real(folder)

    real = Status.load
    monkeypatch.setattr(Status, "load", load)
    jobs = find_jobs([few])
    (gone,) = jobs.left_out
    assert (gone.folder, gone.state) == (few / "6", "unreadable")
    assert len(jobs.runs) == 2


def test_a_folder_that_may_not_be_listed_is_its_own_problem_alone(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(folder: Any) -> Any:
        if Path(folder).name == "6":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    real = os.scandir
    monkeypatch.setattr("os.scandir", scan)
    jobs = find_jobs([few])
    assert jobs.left_out == [LeftOut(few / "6", "unreadable", f"{few / '6'}: Permission denied")]
    assert len(jobs.runs) == 2


def test_runs_and_sweeps_may_be_mixed(run: Path, few: Path) -> None:
    assert [found.folder for found in find_jobs([run, few]).runs][:2] == [run, few / "6"]


def error_of(*paths: Path) -> str:
    with pytest.raises(ValueError, match="expected") as caught:
        find_jobs(paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sweep_without_a_finished_job_is_an_error(sweep: Path) -> None:
    for file in [*sweep.glob("*/summary.json"), *sweep.glob("*/status.json")]:
        file.unlink()
    message = error_of(sweep)
    assert f"expected a finished run, found {sweep / '0'}: unknown, no summary.json and no status.json" in message
    assert message.endswith("(and 11 more)")


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
