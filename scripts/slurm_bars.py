"""A sweep on a real SLURM whose jobs are killed, preempted and requeued, compared with one that is left alone.

    python scripts/slurm_bars.py [--epochs 4] [--seeds 4]

Starts a one-node SLURM (scripts/slurm.py) and sweeps two experiments on Moon over seeds, twice. In the second sweep one
job is ended by ``scancel``, one by ``kill -9``, one is requeued in the middle of an epoch, and one gets USR2, which is
how a cluster announces the end of a job's time. The sweep is then started again by the same command. Prints, for each
job, how often it was started, and whether weights, MVL history, metrics.csv and best score are those of the undisturbed
sweep; exits with 1 if any differs, or if a finished job ran again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import slurm
import torch

EXPERIMENTS = ("moon_at", "moon_at_lr")
QUICK = (
    *("trainer.accelerator=cpu", "callbacks.progress_bar=null", "analysis=null", "evaluation=null"),
    *("data.train_size=4000", "data.val_size=200"),
)
"""Jobs of some seconds, whose epochs last long enough to be interrupted in the middle."""
WAYS = ("scancel", "kill -9", "requeue", "USR2")
PATIENCE = 900.0  # seconds to wait for what a job does


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    if missing := slurm.why_not():
        sys.exit(missing)
    with tempfile.TemporaryDirectory() as root:
        environment = slurm.up(Path(root) / "slurm")
        try:
            sys.exit(not compare(Path(root), args.epochs, args.seeds, environment))
        finally:
            slurm.down(Path(root) / "slurm")


def compare(root: Path, epochs: int, seeds: int, environment: Mapping[str, str]) -> bool:
    """Run both sweeps and print how they compare; whether they are the same."""
    overrides = [f"seed=range(0,{seeds})", f"experiment={','.join(EXPERIMENTS)}"]
    names = [f"experiment-{experiment}+seed-{seed}" for seed in range(seeds) for experiment in EXPERIMENTS]
    left_alone = Sweep(root / "left_alone", [*overrides, *QUICK], names, epochs, environment)
    disturbed = Sweep(root / "disturbed", [*overrides, *QUICK], names, epochs, environment)
    print(f"undisturbed sweep of {len(names)} jobs", flush=True)
    left_alone.run()
    print("disturbed sweep", flush=True)
    launcher = disturbed.start()
    for way in WAYS:
        disturbed.disturb(way)
    disturbed.wait(launcher)
    before = disturbed.statuses()
    print(f"the launcher ended with {launcher.returncode}; started again by the same command", flush=True)
    disturbed.run()
    return report(names, before, disturbed, left_alone)


class Sweep:
    """A sweep on SLURM.

    Args:
        folder: its folder.
        overrides: of lsa-train.
        names: folders of its jobs, in the order of the array.
        epochs: of each job.
        environment: in which SLURM's commands find it.
    """

    def __init__(
        self, folder: Path, overrides: Sequence[str], names: Sequence[str], epochs: int, environment: Mapping[str, str]
    ) -> None:
        self.folder, self.names, self.epochs = folder, list(names), epochs
        self._disturbed: set[str] = set()
        self.overrides = [
            *overrides,
            f"trainer.max_epochs={epochs}",
            f"hydra.sweep.dir={folder}",
            "cluster=slurm",
            "cluster.cpus=1",
        ]
        self.environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}

    def start(self) -> subprocess.Popen[bytes]:
        """Launch it."""
        command = [sys.executable, "-m", "lsa_lightning.cli.train", "-m", *self.overrides]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def run(self) -> None:
        """Launch it, and wait until it ends.

        Raises:
            RuntimeError: if it fails.
        """
        launcher = self.start()
        self.wait(launcher)
        if launcher.returncode:
            msg = f"the sweep failed:\n{(self.folder.parent / f'{self.folder.name}.log').read_text()[-3000:]}"
            raise RuntimeError(msg)

    def wait(self, launcher: subprocess.Popen[bytes]) -> None:
        """Wait for the launcher and for the jobs, which go on without it."""
        launcher.wait(timeout=PATIENCE)
        until(lambda: not self._asked("squeue", "--noheader"), "an empty queue")

    def disturb(self, way: str) -> str:
        """Do to a job, in the middle of an epoch, what clusters do to jobs; each is disturbed once.

        Returns:
            Its name.
        """
        until(lambda: bool(self._candidates()), "a job in the middle of training")
        name = self._candidates()[0]
        self._disturbed.add(name)
        time.sleep(0.1)  # its status was written between two epochs
        status = self.status(name)
        job = self._job(name)
        if way == "kill -9":
            os.kill(status["pid"], signal.SIGKILL)
        elif way == "scancel":
            self._asked("scancel", job)
        elif way == "requeue":
            self._asked("scontrol", "requeue", job)
        else:
            self._asked("scancel", "--signal=USR2", job)
        print(f"{way:8} {name} in epoch {status['epoch']}", flush=True)
        if way in ("requeue", "USR2"):
            ask = ("squeue", "--noheader", "--format=%T", f"--jobs={job}")
            until(lambda: self._asked(*ask) == "PENDING", f"{job} in the queue again")
            print(f"{'':8} queued again with a checkpoint of step {self._step(name)}", flush=True)
            self._asked("scontrol", "update", f"jobid={job}", "starttime=now")  # SLURM waits for two minutes
        return name

    def _candidates(self) -> list[str]:
        """Jobs that are neither at their beginning nor near their end."""
        statuses = {name: status for name, status in self.statuses().items() if name not in self._disturbed}
        running = {name: status for name, status in statuses.items() if status.get("state") == "running"}
        return [name for name, status in running.items() if 1 <= status["epoch"] < self.epochs - 1]

    def status(self, name: str) -> dict[str, Any]:
        """What the job's status file holds; nothing before there is one."""
        file = self.folder / name / "status.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def statuses(self) -> dict[str, dict[str, Any]]:
        """All of them, by job."""
        return {name: self.status(name) for name in self.names}

    def outcome(self, name: str) -> dict[str, Any]:
        """What must not depend on interruptions."""
        folder = self.folder / name
        last, best = (torch.load(folder / "checkpoints" / f"{file}.ckpt") for file in ("last", "best"))
        summary = json.loads((folder / "summary.json").read_text())
        return {
            "weights": b"".join(
                value.numpy().tobytes() for each in (last, best) for value in each["state_dict"].values()
            ),
            "MVL history": summary["mvl_history"],
            "metrics.csv": (folder / "metrics.csv").read_bytes(),
            "best score": (summary["checkpoint_epoch"], summary["validation"]),
        }

    def _step(self, name: str) -> int:
        return int(torch.load(self.folder / name / "checkpoints" / "last.ckpt")["global_step"])

    def _job(self, name: str) -> str:
        """The id of a job of the array that was launched last."""
        arrays = self._asked("squeue", "--noheader", "--format=%F").split()
        return f"{max(map(int, arrays))}_{self.names.index(name)}"

    def _asked(self, *command: str) -> str:
        return subprocess.run(command, check=False, env=self.environment, capture_output=True, text=True).stdout.strip()


def report(names: Sequence[str], before: Mapping[str, Any], disturbed: Sweep, left_alone: Sweep) -> bool:
    """Print a line for each job; whether all is as it must be."""
    good = True
    for name in names:
        status, expected = disturbed.status(name), left_alone.outcome(name)
        same = [what for what, value in disturbed.outcome(name).items() if value == expected[what]]
        idle = before[name]["state"] != "finished" or before[name] == status
        good &= len(same) == len(expected) and status["state"] == "finished" and idle
        was = before[name]["state"] if before[name]["state"] != "running" else "killed"
        again = "" if idle else ", THOUGH FINISHED, RAN AGAIN"
        print(f"{name:28} {was:11} then {status['attempts']} starts{again}; identical: {', '.join(same) or 'NOTHING'}")
    print("all as it must be" if good else "NOT as it must be")
    return good


def until(ready: Callable[[], bool], what: str) -> None:
    """Wait.

    Raises:
        TimeoutError: if it takes more than :data:`PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            msg = f"waited {PATIENCE:.0f} s for {what}"
            raise TimeoutError(msg)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
