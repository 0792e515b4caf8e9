"""A run that is interrupted and started again gives what one that was left alone gives."""

from __future__ import annotations

import signal
import subprocess
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
from omegaconf import OmegaConf
from tests.helpers.fake_data import write_mnist
from tests.helpers.hydra_run import (
    logged,
    main_as_shown,
    main_in_process,
    read_json,
    read_metrics,
    tiny_without,
    train_tiny,
)
from tests.helpers.run_files import differing_files, unreadable_files

from lsa_lightning.cli.train import main
from lsa_lightning.jobs.attempt import NotedEpochs
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.runs.signals import Stopped
from lsa_lightning.runs.stages import AnalysisStage
from lsa_lightning.runs.write import write_analysis

RUN = ("trainer.max_epochs=2", "data.train_size=256", "attack.steps=2")
TRAINING_ALONE = ("analysis=null", "evaluation=null")
LENGTH_ASIDE = (*TRAINING_ALONE, "method=paper")
"""What the first epochs do does not depend on how long training will be, as a ramp of gamma does."""


class StopsAt(NotedEpochs):
    """A signal before a batch of an epoch, or in an epoch's validation."""

    at: tuple[int, int | None] = (0, None)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == self.at:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if (trainer.current_epoch, None) == self.at and not trainer.sanity_checking:
            signal.raise_signal(signal.SIGTERM)


def stopped(folder: Path, at: tuple[int, int | None], *args: str) -> None:
    """A run that a signal ends."""
    StopsAt.at = at
    with patch("lsa_lightning.jobs.train.NotedEpochs", StopsAt), pytest.raises(Stopped):
        train_tiny(folder, *RUN, *args)


def test_a_job_knows_its_rank_before_it_writes(tmp_path: Path) -> None:
    unknown = patch("lsa_lightning.jobs.train.note_rank", side_effect=RuntimeError("rank"))
    with unknown, pytest.raises(RuntimeError, match="rank"):
        train_tiny(tmp_path, *RUN, *TRAINING_ALONE)
    assert not list(tmp_path.rglob("*.json"))
    assert not (tmp_path / "config.yaml").exists()


class WorkersToo(NotedEpochs):
    """A signal that all processes of the job get, as a queue sends it."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 1:
            workers = [str(worker.pid) for worker in active_children()]
            subprocess.run(["kill", "-TERM", *workers], check=True)  # PyTorch's workers expect one of their parent's
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.5)  # a worker that dies of it makes PyTorch raise


def test_a_signal_to_worker_processes_too_is_saved_as_well(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = ("data=mnist", f"data.root={tmp_path}", "data.num_workers=1", "data.val_size=8", "data.batch_size=8")
    with patch("lsa_lightning.jobs.train.NotedEpochs", WorkersToo), pytest.raises(Stopped):
        main_in_process(main, *data, "attack.steps=1", *TRAINING_ALONE, f"hydra.run.dir={tmp_path}/run")
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["reason"]) == ("interrupted", "SIGTERM")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    train_tiny(folder, *RUN)
    return folder


@pytest.mark.parametrize("at", [(0, 3), (1, 0), (1, 7), (1, None)])
def test_after_a_signal_in_training_every_file_is_the_same(tmp_path: Path, whole: Path, at: Any) -> None:
    stopped(tmp_path, at)
    assert unreadable_files(tmp_path) == []
    assert read_json(tmp_path / "status.json")["state"] == "interrupted"
    train_tiny(tmp_path, *RUN)
    assert differing_files(tmp_path, whole) == []
    assert read_json(tmp_path / "status.json")["attempts"] == 2


@pytest.mark.parametrize(
    "args",
    [
        ("scheduler=one_cycle", "optimizer=sgd"),
        ("callbacks=at_fast", "callbacks.overfitting_stop.attack.steps=1"),
        ("+trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=0.5"),
        ("callbacks.atlr.warmup_epochs=1", "callbacks.atlr.analysis_every_n_epochs=2", "objective=trades"),
    ],
)
def test_so_it_is_however_it_trains(tmp_path: Path, args: tuple[str, ...]) -> None:
    train_tiny(tmp_path / "whole", *RUN, *TRAINING_ALONE, *args)
    stopped(tmp_path / "run", (1, 5 if "scheduler=one_cycle" in args else 6), *TRAINING_ALONE, *args)
    train_tiny(tmp_path / "run", *RUN, *TRAINING_ALONE, *args)
    assert differing_files(tmp_path / "run", tmp_path / "whole") == []


def _interrupt(*_: object, **__: object) -> Any:
    signal.raise_signal(signal.SIGINT)


def _fails(*_: object, **__: object) -> Any:
    msg = "computed again"
    raise AssertionError(msg)


def test_ctrl_c_in_the_masking_checks_loses_nothing_that_was_there(tmp_path: Path, whole: Path) -> None:
    with patch.object(MaskingChecks, "run", _interrupt), pytest.raises(Stopped) as stop:
        train_tiny(tmp_path, *RUN)
    assert stop.value.code == 130
    assert read_json(tmp_path / "evaluation.json")["accuracy"] == read_json(whole / "evaluation.json")["accuracy"]
    with (
        patch.object(AnalysisStage, "run", _fails),
        patch("lsa_lightning.evaluation.RobustnessEvaluation._count", _fails),
        patch("lsa_lightning.models.RobustClassifier.training_step", _fails),
    ):
        train_tiny(tmp_path, *RUN)
    assert differing_files(tmp_path, whole) == []


def test_a_finished_job_is_not_run_again(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "summary.json").read_bytes()
    assert "Nothing is left to do" in train_tiny(whole, *RUN)
    assert (whole / "summary.json").read_bytes() == before


def test_another_configuration_changes_nothing_in_the_folder(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="seed: 0, now 1"):
        train_tiny(whole, *RUN, "seed=1")
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_on_the_command_line_wherever_it_lies_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(tmp_path / "run", (1, 4), *LENGTH_ASIDE)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    main_in_process(main, f"resume={tmp_path}/moved", "trainer.max_epochs=3")
    train_tiny(tmp_path / "whole", *RUN, *LENGTH_ASIDE, "trainer.max_epochs=3")
    assert read_metrics(tmp_path / "moved") == read_metrics(tmp_path / "whole")
    after, expected = (read_json(tmp_path / name / "summary.json") for name in ("moved", "whole"))
    assert after["mvl_history"] == expected["mvl_history"]
    assert after["validation"] == expected["validation"]
    assert after["checkpoint"] == str(tmp_path / "moved" / "checkpoints" / "best.ckpt")


def test_a_finished_run_is_trained_for_longer(tmp_path: Path) -> None:
    train_tiny(tmp_path / "run", *RUN, *LENGTH_ASIDE)
    train_tiny(tmp_path / "run", *RUN, *LENGTH_ASIDE, "trainer.max_epochs=3")
    train_tiny(tmp_path / "whole", *RUN, *LENGTH_ASIDE, "trainer.max_epochs=3")
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")
    assert [epoch for epoch, _ in logged(tmp_path / "run", "train/loss")] == [0, 1, 2]


def test_what_is_given_beside_resume_must_not_change_the_past(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main_as_shown(main, f"resume={whole}", "optimizer.lr=0.5")
    assert exit_.value.code == 1
    assert "model.optimizer.lr: 0.05, now 0.5" in capsys.readouterr().err


def test_a_sweep_that_is_started_again_runs_only_what_is_unfinished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_without("analysis", "evaluation")
    command = ("-m", *tiny, *TRAINING_ALONE, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    main_in_process(main, *command)
    first, second = sorted(path.parent for path in tmp_path.glob("*/status.json"))
    status = second / "status.json"
    status.write_text(status.read_text().replace("finished", "interrupted"))
    capsys.readouterr()
    main_in_process(main, *command)
    assert capsys.readouterr().out.count("Nothing is left to do") == 1
    assert [read_json(job / "status.json")["attempts"] for job in (first, second)] == [1, 2]


def test_a_run_of_somebody_else_runs_no_code(tmp_path: Path) -> None:
    train_tiny(tmp_path / "run", *RUN, *TRAINING_ALONE)
    overrides = OmegaConf.load(tmp_path / "run" / ".hydra" / "overrides.yaml")
    canary = tmp_path / "canary"
    evil = [f"+model.evil={{_target_:os.mkdir,path:{canary}}}"]
    OmegaConf.save(OmegaConf.create([*overrides, *evil]), tmp_path / "run" / ".hydra" / "overrides.yaml")
    with pytest.raises(SystemExit, match=r"model\.evil: expected an nn\.Module"):
        main_in_process(main, f"resume={tmp_path / 'run'}")
    assert not canary.exists()


def test_a_signal_that_a_finalizer_swallowed_stops_the_job_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = MaskingChecks.run

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def swallow(*args: Any) -> Any:
        Finalized()
        return check(*args)

    monkeypatch.setattr(MaskingChecks, "run", swallow)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    with pytest.raises(Stopped):
        train_tiny(tmp_path, *RUN)
    assert read_json(tmp_path / "status.json")["state"] == "interrupted"


@pytest.mark.parametrize(
    "given", ["--config-dir=CONF", "--config-dir CONF", "-cd CONF", "hydra.searchpath=[file://CONF]"]
)
def test_a_run_with_configurations_of_ones_own_goes_on_when_they_are_named_again(tmp_path: Path, given: str) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("# @package _global_\ndefaults: [moon]\n")
    run, conf = tmp_path / "run", str(tmp_path / "conf")
    tiny = tiny_without("analysis", "evaluation")
    main_in_process(main, "data=mine", *tiny, *TRAINING_ALONE, f"hydra.run.dir={run}", "--config-dir", conf)
    longer = "trainer.max_epochs=2"
    with pytest.raises(SystemExit, match="name them again: --config-dir="):
        main_as_shown(main, longer, f"resume={run}")
    main_in_process(main, longer, *given.replace("CONF", conf).split(), f"resume={run}")
    assert read_json(run / "summary.json")["epochs"] == 2


REFERS = "callbacks.atlr.analysis_attack=${attack}"


def test_an_override_may_refer_to_another_part_of_the_configuration(tmp_path: Path) -> None:
    train_tiny(tmp_path, *TRAINING_ALONE, REFERS)
    main_in_process(main, f"resume={tmp_path}", "trainer.max_epochs=2")
    assert REFERS in (tmp_path / ".hydra/overrides.yaml").read_text()
    assert OmegaConf.load(tmp_path / "config.yaml").callbacks.atlr.analysis_attack.steps == 10
    assert len(read_metrics(tmp_path)) > 2


def test_a_seed_whose_override_refers_to_something_goes_on_alone(tmp_path: Path) -> None:
    args = [*tiny_without("analysis", "evaluation"), *TRAINING_ALONE, REFERS, "seeds=[0,1]"]
    main_in_process(main, *args, f"hydra.run.dir={tmp_path}")
    assert REFERS in (tmp_path / "seed=1/.hydra/overrides.yaml").read_text()
    main_in_process(main, f"resume={tmp_path}/seed=1", "trainer.max_epochs=2")
    assert read_json(tmp_path / "seed=1/status.json")["state"] == "finished"


def test_another_trainer_leaves_the_run_as_long_as_it_is(tmp_path: Path) -> None:
    train_tiny(tmp_path, *RUN, *TRAINING_ALONE)
    main_in_process(main, f"resume={tmp_path}", "trainer=cpu")
    assert OmegaConf.load(tmp_path / "config.yaml").trainer.max_epochs == 2
    assert read_json(tmp_path / "summary.json")["epochs"] == 2


def test_masking_checks_that_other_settings_interrupted_are_made_again(tmp_path: Path) -> None:
    train_tiny(tmp_path, "analysis=null")
    flags = read_json(tmp_path / "summary.json")["masking"]
    with patch.object(MaskingChecks, "run", _interrupt), pytest.raises(Stopped):
        train_tiny(tmp_path, "analysis=null", "evaluation.attacks.pgd.steps=1")
    train_tiny(tmp_path, "analysis=null")
    assert read_json(tmp_path / "summary.json")["masking"] == flags != {}


def test_an_analysis_that_other_settings_overwrote_is_made_again(tmp_path: Path) -> None:
    train_tiny(tmp_path, "evaluation=null")
    mu = read_json(tmp_path / "summary.json")["mu"]

    def write_and_stop(*args: Any) -> None:
        write_analysis(*args)
        raise Stopped(signal.SIGTERM)

    with patch("lsa_lightning.jobs.train.write_analysis", write_and_stop), pytest.raises(Stopped):
        train_tiny(tmp_path, "evaluation=null", "analysis.attacks.pgd.eps=0.5")
    train_tiny(tmp_path, "evaluation=null")
    assert read_json(tmp_path / "summary.json")["mu"] == mu


def test_results_of_weights_that_trained_on_are_not_those_of_the_new_ones(tmp_path: Path) -> None:
    train_tiny(tmp_path, "method=paper", "callbacks.checkpoint=null", figures=True)
    results = {"classes.json", "evaluation.csv", "profile_pgd.json", "confusion.png", "layer_profile.png"}
    assert results <= {path.name for path in tmp_path.rglob("*")}
    train_tiny(tmp_path, *LENGTH_ASIDE, "callbacks.checkpoint=null", "trainer.max_epochs=2", figures=True)
    left = {path.name for path in tmp_path.rglob("*")}
    assert not results & left
    assert "mvl_history.png" in left
