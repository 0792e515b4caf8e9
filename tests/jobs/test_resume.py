"""``resume=RUN`` on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lsa_lightning.jobs.resume import with_resumed_run

SAVED = ["experiment=moon_at_lr", "seed=3", "+trainer.gradient_clip_val=1.0"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my run, 'a'=1"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 3\n")
    OmegaConf.save(OmegaConf.create(SAVED), folder / ".hydra" / "overrides.yaml")
    return folder


def _hydra(run: Path) -> str:
    path = str(run).replace("'", "\\'")
    return f"hydra.run.dir='{path}'"


def _resume(run: Path) -> str:
    return _hydra(run).replace("hydra.run.dir", "resume")


def test_it_becomes_the_overrides_of_the_run_in_its_folder(run: Path) -> None:
    assert with_resumed_run([f"resume={run}"]) == [*SAVED, _hydra(run), _resume(run)]


def test_seeds_that_are_trained_at_once_go_on_together(run: Path) -> None:
    (run / "seed=0").mkdir()
    (run / "config.yaml").rename(run / "seed=0" / "config.yaml")
    assert with_resumed_run([f"resume={run}"]) == [*SAVED, _hydra(run), _resume(run)]


def test_what_stands_beside_it_takes_the_place_of_the_runs_own(run: Path) -> None:
    given = ["trainer.max_epochs=9", "++trainer.gradient_clip_val=2.0"]
    assert with_resumed_run([given[0], f"+resume={run}", given[1]]) == [*SAVED[:2], _hydra(run), *given, _resume(run)]


def test_configurations_from_elsewhere_are_named_again(run: Path) -> None:
    search = "hydra.searchpath=[file://my/conf]"
    sources = [{"provider": "main", "path": "a"}, {"provider": "command-line", "path": "/my/conf"}]
    hydra = {"overrides": {"hydra": [search, "hydra.mode=MULTIRUN"]}, "runtime": {"config_sources": sources}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), run / ".hydra" / "hydra.yaml")
    with pytest.raises(SystemExit) as caught:
        with_resumed_run([f"resume={run}"])
    assert f"name them again: --config-dir=/my/conf {search}" in str(caught.value)
    given = ["--config-dir=/my/conf", search]
    resumed = [given[0], *SAVED, _hydra(run), given[1], _resume(run)]  # argparse wants flags before
    assert with_resumed_run([f"resume={run}", *given]) == resumed


@pytest.mark.parametrize("given", ["--config-dir=/my/conf", "hydra.searchpath=[file:///my/conf]"])
def test_a_folder_of_configurations_is_named_in_either_way(run: Path, given: str) -> None:
    sources = [{"provider": "command-line", "path": "/my/conf"}]
    hydra = {"overrides": {"hydra": []}, "runtime": {"config_sources": sources}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), run / ".hydra" / "hydra.yaml")
    assert given in with_resumed_run([f"resume={run}", given])


@pytest.mark.parametrize(
    "override",
    [
        "hydra.callbacks.a._target_=os.system",
        "++hydra.job_logging.handlers.a.class=os.system",
        "experiment=../../elsewhere/evil",
        "+experiment=/elsewhere/evil",
        "experiment=file:evil",
        "experiment@hydra.callbacks=evil",
        "hydra/callbacks=evil",
        "+hydra/callbacks@a=evil",
        "override hydra/launcher=evil",
        "data=[moon,../../evil]",
    ],
)
def test_overrides_of_somebody_else_name_no_files_and_leave_hydra_alone(run: Path, override: str) -> None:
    OmegaConf.save(OmegaConf.create([*SAVED, override]), run / ".hydra" / "overrides.yaml")
    with pytest.raises(SystemExit, match="expected overrides of lsa-train's own configuration"):
        with_resumed_run([f"resume={run}"])


def test_they_do_not_say_whom_to_trust(run: Path) -> None:
    OmegaConf.save(OmegaConf.create([*SAVED, "trust=all", "++resume=null"]), run / ".hydra" / "overrides.yaml")
    assert with_resumed_run([f"resume={run}"]) == [*SAVED, _hydra(run), _resume(run)]


def test_other_command_lines_are_left_alone() -> None:
    assert with_resumed_run(["-m", "seed=0,1"]) == ["-m", "seed=0,1"]


@pytest.mark.parametrize(
    "beside", [["-m"], ["--multirun", "seed=0,1"], ["hydra.run.dir=elsewhere"], ["hydra.sweep.dir=elsewhere"]]
)
def test_a_sweep_and_another_folder_are_refused(run: Path, beside: Sequence[str]) -> None:
    with pytest.raises(SystemExit, match="expected resume=RUN for one run, in its own folder, got a sweep or another"):
        with_resumed_run([f"resume={run}", *beside])


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected resume=RUN with one run folder .* got .*nowhere"):
        with_resumed_run([f"resume={tmp_path}/nowhere"])
