"""What conf/cluster works out, and Lightning's advice about srun."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from tests.helpers.hydra_run import train_tiny

from lsa_lightning.jobs.cluster import one_process, port, processes, sbatch_options, without_srun_hint


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (4, 4), ("2", 2), ([0], 1), ([0, 3], 2)])
def test_a_job_has_a_process_for_each_device(devices: Any, expected: int) -> None:
    assert processes(devices) == expected


@pytest.mark.parametrize("devices", ["auto", -1, 0, "-1", None])
def test_devices_must_be_known_before_the_job_runs(devices: Any) -> None:
    with pytest.raises(ValueError, match=r"expected trainer\.devices to be a number or a list, .*got"):
        processes(devices)


@pytest.mark.parametrize("devices", [2, [0, 1]])
def test_joblib_is_refused_with_several_devices(devices: Any) -> None:
    with pytest.raises(ValueError, match=r"expected trainer\.devices=1 .*use cluster=submitit_local"):
        one_process(devices)
    assert one_process([3]) == 1


def test_processes_of_one_job_meet_at_one_port_and_other_jobs_at_others() -> None:
    ports = {port(job) for job in ("4711", "4711", "4712", 9_999_999)}
    assert len(ports) == 3
    assert all(1024 < each < 2**15 for each in ports)  # below those that Linux gives to clients


def test_slurm_requeues_unless_it_is_told_not_to() -> None:
    assert sbatch_options(True, None) == {"requeue": True}
    assert sbatch_options(False, {"mail-type": "END"}) == {"no-requeue": True, "mail-type": "END"}


@pytest.fixture
def _srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with ``srun``, in no job of SLURM."""
    program = tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("SLURM_NTASKS", raising=False)


def trainer() -> pl.Trainer:
    return pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")


@pytest.mark.usefixtures("_srun")
def test_lightning_advises_srun_but_not_where_it_is_told_not_to(recwarn: pytest.WarningsRecorder) -> None:
    filters = list(warnings.filters)
    with without_srun_hint():
        trainer()
    assert [str(w.message) for w in recwarn] == []
    assert warnings.filters == filters
    trainer()
    assert any("`srun`" in str(w.message) for w in recwarn)


@pytest.mark.slow
@pytest.mark.usefixtures("_srun")
def test_lsa_train_says_nothing_about_srun(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train_tiny(tmp_path / "run")
    assert [str(w.message) for w in recwarn if "srun" in str(w.message)] == []
