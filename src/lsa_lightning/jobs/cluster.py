"""Where the jobs of a sweep run: what ``conf/cluster`` works out from the configuration."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

EXTRA = 'pip install "lsa-lightning[cluster]"'
FIRST_PORT, PORTS = 20_000, 10_000


def processes(devices: Any) -> int:
    """Processes of a job: one for each of the trainer's ``devices``.

    Raises:
        ValueError: if only the machine that the job will run on can tell.

    Example:
        >>> processes(2), processes([0, 3]), processes("1")
        (2, 2, 1)
    """
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if not str(devices).isdecimal() or int(devices) < 1:
        msg = (
            "expected trainer.devices to be a number or a list, since one process is asked for each of them before "
            f"the job runs, got {devices!r}"
        )
        raise ValueError(msg)
    return int(devices)


def one_process(devices: Any) -> int:
    """1, if the trainer's ``devices`` are one.

    Raises:
        ValueError: if they are more, or unknown.
    """
    if processes(devices) != 1:
        msg = (
            "expected trainer.devices=1 with cluster=joblib, whose jobs cannot start the processes of further devices, "
            f"got {devices!r}; use cluster=submitit_local or cluster=slurm"
        )
        raise ValueError(msg)
    return 1


def port(job_id: Any) -> int:
    """The port at which the processes of a job meet: the same for all of them, another one for another job."""
    return FIRST_PORT + int(job_id) % PORTS


def sbatch_options(requeue: bool, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of sbatch that submitit has no argument for.

    Example:
        >>> sbatch_options(False, {"mail-type": "FAIL"})
        {'no-requeue': True, 'mail-type': 'FAIL'}
    """
    return {"requeue" if requeue else "no-requeue": True, **(options or {})}


def start_processes_as_usual() -> None:
    """In a process of joblib's, start others as anywhere else: in joblib's way PyTorch's workers cannot be started."""
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # the platform's


@contextmanager
def without_srun_hint() -> Iterator[None]:
    """Make and run a Trainer without Lightning's advice to use ``srun``, which it gives on every machine that has it.

    On a login node nothing is to be started by it, and in the jobs of ``conf/cluster`` submitit does so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
        yield


# For conf/cluster. The second argument of parallel_jobs is only looked at: it raises for what joblib cannot run.
OmegaConf.register_new_resolver("lsa.processes", processes, replace=True)
OmegaConf.register_new_resolver("lsa.one_process", one_process, replace=True)
OmegaConf.register_new_resolver("lsa.parallel_jobs", lambda jobs, _: jobs, replace=True)
OmegaConf.register_new_resolver("lsa.port", port, replace=True)
OmegaConf.register_new_resolver("lsa.sbatch", sbatch_options, replace=True)
