"""How the commands start and end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException, MissingConfigException
from tests.helpers.hydra_run import TINY, main_as_shown, main_in_process, read_json, train_tiny

from lsa_lightning import MoonDataModule, __version__
from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.command import shows_tracebacks
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.cli.overrides import with_quoted_paths, with_trainer_options
from lsa_lightning.cli.report import main as report_main
from lsa_lightning.cli.train import main

BROKEN = "data._target_=tests.cli.test_command.Broken"


class Broken(MoonDataModule):
    """Has a fault that no check foresees."""

    def setup(self, stage: str | None = None) -> None:
        _ = {}["nothing"]  # type: ignore[var-annotated]


@pytest.mark.parametrize("entry", [main, analyze_main, evaluate_main])
def test_the_version_is_ours(entry: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    main_as_shown(entry, "--version")
    assert capsys.readouterr().out == f"lsa-lightning {__version__}\n"


def test_the_version_of_a_report_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        report_main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"lsa-lightning {__version__}\n")


def test_a_fault_is_named_with_its_place_and_its_traceback_is_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main_as_shown(main, *TINY, BROKEN, f"hydra.run.dir={tmp_path}")
    shown = capsys.readouterr().err
    assert end.value.code == 1
    assert shown.startswith("lsa-train: KeyError: 'nothing' (")
    assert "test_command.py:" in shown
    assert shown.endswith("; HYDRA_FULL_ERROR=1 shows the traceback\n")
    assert shown.count("\n") == 1
    log = (tmp_path / "train.log").read_text()
    assert "Traceback (most recent call last):" in log
    assert "KeyError: 'nothing'" in log


@pytest.mark.parametrize(
    ("entry", "typed"),
    [(main, "seed=x"), (main, "+nothing=1"), (evaluate_main, "seed=0"), (analyze_main, "ckpt_path=nowhere.ckpt")],
)
def test_a_refused_command_leaves_no_folder(
    entry: Callable[[], Any], typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main_as_shown(entry, typed)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert list(tmp_path.glob("runs/*/*")) == []


def test_errors_are_shown_in_full_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingConfigException):
        main_in_process(main, "objective=trade")
    with pytest.raises(SystemExit):
        main_as_shown(main, *TINY, "debug=quick", BROKEN, f"hydra.run.dir={tmp_path}")
    assert "Traceback (most recent call last):" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "shown"), [("debug=quick", True), ("+debug=quick", True), ("debug=null", False), ("name=debug", False)]
)
def test_debugging_shows_tracebacks(monkeypatch: pytest.MonkeyPatch, typed: str, shown: bool) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("sys.argv", ["lsa-train", typed])
    assert shows_tracebacks() is shown


def test_the_job_of_a_sweep_that_failed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main_as_shown(main, "-m", *TINY, "attack.eps=-1", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    *jobs, executing, last = capsys.readouterr().err.splitlines()
    why = "attack.eps: ThreatModel: expected eps to be a finite number >= 0, got -1"
    assert jobs == [f"lsa-train: job {seed} of the sweep, seed={seed}: {why}" for seed in (0, 1)]
    assert executing.startswith("Error executing job")
    assert "seed=0" in executing
    assert last == f"lsa-train: {why}"


def test_hydra_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    from hydra._internal import utils

    before = utils.run_and_report
    with pytest.raises(SystemExit):
        main_as_shown(main, "objective=trade")
    assert utils.run_and_report is before
    assert issubclass(MissingConfigException, HydraException)


def test_every_argument_of_the_trainer_is_an_option() -> None:
    typed = ["trainer.fast_dev_run=true", "trainer.profiler._target_=x", "trainer.devices=2", "trainer.fast=1"]
    assert with_trainer_options(typed) == [f"++{typed[0]}", f"++{typed[1]}", typed[2], typed[3]]


@pytest.mark.parametrize("typed", ["ckpt_path='a=b'", "ckpt_path=[a,b]", "data.root=a", "seed=0", "ckpt_path=a=b,c=d"])
def test_only_a_path_with_an_equals_sign_is_quoted(typed: str) -> None:
    assert with_quoted_paths([typed]) == [typed]


def test_paths_of_seeds_may_stand_in_a_list() -> None:
    assert with_quoted_paths(["ckpt_path=[r/seed=0/b.ckpt, c.ckpt]"]) == ["ckpt_path=['r/seed=0/b.ckpt','c.ckpt']"]


def test_the_limits_of_the_trainer_hold_for_every_stage(tmp_path: Path) -> None:
    batches = ("data._target_=tests.helpers.hydra_run.MoonsInBatches", "trainer.limit_test_batches=2")
    train_tiny(tmp_path / "two", *batches, "evaluation.masking.n_samples=40")
    summary = read_json(tmp_path / "two" / "summary.json")
    assert summary["test_samples"] == 32
    assert read_json(tmp_path / "two" / "profile_pgd.json")["samples"] == 32
    assert {
        flag["samples"]
        for flag in read_json(tmp_path / "two" / "evaluation.json")["masking"].values()
        if "samples" in flag
    } <= {32}


def test_seeds_that_are_trained_at_once_keep_to_the_limits(tmp_path: Path) -> None:
    batches = ("data._target_=tests.helpers.hydra_run.MoonsInBatches", "trainer.limit_test_batches=2")
    train_tiny(tmp_path, *batches, "seeds=[0,1]", "analysis=null", "evaluation.masking=null")
    for folder in (tmp_path / "seed=0", tmp_path / "seed=1"):
        assert read_json(folder / "summary.json")["test_samples"] == 32
        assert sum(map(sum, read_json(folder / "classes.json")["adversarial"])) == 32


def test_a_development_run_sees_one_batch_of_everything(tmp_path: Path) -> None:
    train_tiny(tmp_path, "data._target_=tests.helpers.hydra_run.MoonsInBatches", "trainer.fast_dev_run=true")
    assert read_json(tmp_path / "summary.json")["test_samples"] == 16
    assert not list(tmp_path.rglob("*.ckpt"))


def test_without_a_progress_bar_nothing_is_said_about_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [each for each in TINY if "progress_bar" not in each]
    main_in_process(main, *typed, "trainer.enable_progress_bar=false", "logger=none", f"hydra.run.dir={tmp_path}")
    shown = capsys.readouterr()
    assert "R&G:" in shown.out
    for word in ("Epoch 1", "Analysing", "Evaluating", "Training:", "Checking"):
        assert word not in shown.out + shown.err
