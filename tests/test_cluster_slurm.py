"""A sweep on a real SLURM of one node: a requeued and a cancelled job end as if nothing had happened."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.helpers.hydra_run import TINY, main_in_process

from lsa_lightning.cli.train import main

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts"
OTHERWISE = ("trainer.max_epochs", "data.train_size", "evaluation", "analysis")
BRIEF = [setting for setting in TINY if not setting.startswith(OTHERWISE)]
BRIEF += ["data.train_size=1600", "analysis=null", "evaluation=null"]
"""Epochs of some tenths of a second, in whose middle a job can be interrupted."""


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("slurm_bars")


@pytest.fixture
def environment(bars: ModuleType, tmp_path: Path) -> Iterator[dict[str, str]]:
    if missing := bars.slurm.why_not():
        pytest.skip(missing)
    yield bars.slurm.up(tmp_path / "slurm")
    bars.slurm.down(tmp_path / "slurm")


def test_jobs_that_are_cancelled_or_requeued_lose_nothing(
    tmp_path: Path, bars: ModuleType, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["experiment-moon_at", "experiment-moon_at_lr"]
    overrides = ["experiment=moon_at,moon_at_lr", *BRIEF]
    main_in_process(main, "-m", *overrides, "trainer.max_epochs=6", f"hydra.sweep.dir={tmp_path}/left_alone")
    left_alone = bars.Sweep(tmp_path / "left_alone", overrides, names, 6, environment)
    sweep = bars.Sweep(tmp_path / "disturbed", overrides, names, 6, environment)
    launcher = sweep.start()
    cancelled, requeued = sweep.disturb("scancel"), sweep.disturb("requeue")
    sweep.wait(launcher)
    assert launcher.returncode == 1
    states = {name: (status["state"], status["attempts"]) for name, status in sweep.statuses().items()}
    assert states == {cancelled: ("interrupted", 1), requeued: ("finished", 2)}
    sweep.run()
    assert {name: status["attempts"] for name, status in sweep.statuses().items()} == dict.fromkeys(names, 2)
    for name in names:
        assert sweep.outcome(name) == left_alone.outcome(name)
