"""A sweep on a real SLURM of one node: a requeued and a cancelled job end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import slurm
from scripts.slurm_bars import Sweep
from tests.helpers.hydra_run import TINY, main_in_process

from lsa_lightning.cli.train import main

pytestmark = [pytest.mark.slow, pytest.mark.skipif(slurm.why_not() is not None, reason=str(slurm.why_not()))]

OTHERWISE = ("trainer.max_epochs", "data.train_size", "evaluation", "analysis")
BRIEF = [setting for setting in TINY if not setting.startswith(OTHERWISE)]
BRIEF += ["trainer.max_epochs=6", "data.train_size=3200", "analysis=null", "evaluation=null"]
"""Epochs of half a second or longer, in whose middle a job can be interrupted."""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    yield slurm.up(tmp_path / "slurm")
    slurm.down(tmp_path / "slurm")


def test_jobs_that_are_cancelled_or_requeued_lose_nothing(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["experiment-moon_at", "experiment-moon_at_lr"]
    overrides = ["experiment=moon_at,moon_at_lr", *BRIEF]
    main_in_process(main, "-m", *overrides, f"hydra.sweep.dir={tmp_path}/left_alone")
    left_alone = Sweep(tmp_path / "left_alone", overrides, names, environment)
    sweep = Sweep(tmp_path / "disturbed", overrides, names, environment)
    launcher = sweep.start()
    sweep.disturb(names[0], "scancel")
    sweep.disturb(names[1], "requeue")
    sweep.wait(launcher)
    assert launcher.returncode == 1
    states = {name: (status["state"], status["attempts"]) for name, status in sweep.statuses().items()}
    assert states == {names[0]: ("interrupted", 1), names[1]: ("finished", 2)}
    sweep.run()
    assert {name: status["attempts"] for name, status in sweep.statuses().items()} == dict.fromkeys(names, 2)
    for name in names:
        assert sweep.outcome(name) == left_alone.outcome(name)
