"""The search with Optuna, with jobs that only return a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tests.helpers.hydra_run import main_in_process

from hydra_plugins.lsa_lightning_search import split_overrides
from lsa_lightning.cli.train import main
from lsa_lightning.runs.summary import RunSummary

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Jobs:
    """What jobs do instead of training: they count themselves and return the metric, or what ``fails`` raises."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.fails: Callable[[int], BaseException | None] = lambda number: None

    def __call__(self, cfg: DictConfig) -> RunSummary:
        self.folders.append(Path(HydraConfig.get().runtime.output_dir).name)
        if (error := self.fails(len(self.folders))) is not None:
            raise error
        return RunSummary("search", 0, {}, 1, 0.0, validation={"val/acc_pgd": 1 - abs(cfg.regularizer.gamma - 0.5)})


@pytest.fixture
def jobs() -> Any:
    with patch("lsa_lightning.cli.train.train", Jobs()) as jobs:
        yield jobs


def search(folder: Path, *overrides: str) -> optuna.Study:
    """Run a search, and read its study."""
    main_in_process(main, "hparams_search=optuna", "experiment=moon_at_lr", f"hydra.sweep.dir={folder}", *overrides)
    return study_in(folder)


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/optuna.db")


def test_a_search_tells_its_metric_and_writes_the_best(tmp_path: Path, jobs: Jobs) -> None:
    study = search(tmp_path / "search", "hydra.sweeper.n_trials=3")
    assert len(jobs.folders) == len(set(jobs.folders)) == len(study.trials) == 3
    for trial in study.trials:
        assert trial.value == pytest.approx(1 - abs(trial.params["regularizer.gamma"] - 0.5))
        assert set(trial.params) == {
            "regularizer.gamma",
            "measure",
            "callbacks.atlr.eta",
            "callbacks.atlr.top_k",
            "callbacks.atlr.mvl",
        }
    results = OmegaConf.load(tmp_path / "search" / "optimization_results.yaml")
    assert results.best_value == max(trial.value or 0.0 for trial in study.trials)
    assert results.best_params["regularizer.gamma"] == study.best_params["regularizer.gamma"]


def test_the_same_command_adds_only_what_is_missing_and_draws_anew(tmp_path: Path, jobs: Jobs) -> None:
    search(tmp_path, "hydra.sweeper.n_trials=1")
    study = search(tmp_path, "hydra.sweeper.n_trials=2")
    assert len(study.trials) == 2
    assert len({trial.params["regularizer.gamma"] for trial in study.trials}) == 2
    search(tmp_path, "hydra.sweeper.n_trials=2")
    assert len(jobs.folders) == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("optimized_metric=val/acc_clean", "optimized_metric: not given, now val/acc_clean"),
        ("hydra.sweeper.direction=minimize", "direction: maximize, now minimize"),
        ("trainer.max_epochs=7", "trainer.max_epochs: 5, now 7"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(other: str, words: str, tmp_path: Path, jobs: Jobs) -> None:
    begun = ("trainer.max_epochs=5", "hydra.sweeper.n_trials=1")
    search(tmp_path, *begun)
    with pytest.raises(ValueError, match=f"1 finished trials, to go on as it began, got another search: {words}"):
        search(tmp_path, *begun, "hydra.sweeper.n_trials=2", other)
    search(tmp_path, *begun, "hydra.sweeper.n_trials=2", "num_threads=1")
    assert len(jobs.folders) == 2


def test_a_search_without_a_finished_trial_begins_anew_with_other_settings(tmp_path: Path, jobs: Jobs) -> None:
    jobs.fails = lambda number: ValueError("too large") if number == 1 else None
    with pytest.raises(ValueError, match="too large"):
        search(tmp_path, "hydra.sweeper.n_trials=1", "trainer.max_epochs=7")
    search(tmp_path, "hydra.sweeper.n_trials=1", "trainer.max_epochs=5")
    # Named otherwise, and with a choice that was searched before.
    again = ("trainer.max_epochs=5", "name=other", "regularizer.gamma=0.5")
    assert len(search(tmp_path, *again, "hydra.sweeper.n_trials=2").trials) == 3


def test_trials_of_a_killed_search_are_tried_again_in_their_folders(tmp_path: Path, jobs: Jobs) -> None:
    jobs.fails = lambda number: KeyboardInterrupt() if number == 2 else None
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    killed = [trial.params for trial in study_in(tmp_path).trials if trial.state == TrialState.RUNNING]
    assert len(killed) == 2
    before = jobs.folders[:2]
    study = search(tmp_path, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    assert jobs.folders[2:4] == before
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL), len(states)) == (2, 2, 4)
    assert [trial.params for trial in study.trials[2:4]] == killed


def test_a_failed_job_ends_the_search_after_the_others_are_told(tmp_path: Path, jobs: Jobs) -> None:
    jobs.fails = lambda number: ValueError("no such layer") if number == 1 else None
    with pytest.raises(ValueError, match="no such layer"):
        search(tmp_path, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    assert [trial.state for trial in study_in(tmp_path).trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_job_without_its_metric_ends_the_search(tmp_path: Path, jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="expected a job to return the metric that optimized_metric names, got nan"):
        search(tmp_path, "optimized_metric=rg_score/pgd")


def test_overrides_become_distributions() -> None:
    space, fixed = split_overrides(
        [
            *("a=interval(0,1.5)", "b=tag(log,interval(0.1,10))", "c=int(interval(1,8))", "d=range(0,10,3)"),
            *("e=x,null,[1,2]", "f=choice(x,y)", "seed=3", "g=1,2", "g=interval(0,1)", "+h.i=[a,b]"),
        ]
    )
    assert space == {
        "a": FloatDistribution(0, 1.5),
        "b": FloatDistribution(0.1, 10, log=True),
        "c": IntDistribution(1, 8),
        "d": IntDistribution(0, 9, step=3),
        "e": CategoricalDistribution(["x", "null", "[1,2]"]),
        "f": CategoricalDistribution(["x", "y"]),
        "g": FloatDistribution(0, 1),
    }
    assert fixed == ["seed=3", "+h.i=[a,b]"]
    with pytest.raises(ValueError, match=r"expected something to search, .*got only seed=3"):
        split_overrides(["seed=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("n_trials=0", "expected n_trials to be an integer >= 1, got 0"),
        ("n_jobs=0.5", "expected n_jobs to be an integer >= 1, got 0.5"),
        ("direction=up", r"expected direction to be one of \['maximize', 'minimize'\], got 'up'"),
    ],
)
def test_bad_settings_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        main_in_process(
            main, "hparams_search=optuna", f"hydra.sweeper.{override}", f"hydra.sweep.dir={tmp_path}/search"
        )
    assert not (tmp_path / "search").exists()
