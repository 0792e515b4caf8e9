"""What launchers and resuming cost: seconds from the command to the first training step, beside those of a plain run.

    python benchmarks/cluster_overhead.py [--rounds 5]

Every round starts each way once, in turn: plain, as a sweep of one job with each of conf/cluster, and resumed from a
checkpoint. SLURM is the one-node one of scripts/slurm.py, and left out where it is not installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

ROOT = Path(__file__).parents[1]
CLOCK = "+callbacks.clock._target_=benchmarks.cluster_overhead.Clock"
JOB = (
    *("experiment=moon_at_lr", "seed=0", "trainer.max_epochs=1", "trainer.accelerator=cpu", "analysis=null"),
    *("evaluation=null", "callbacks.progress_bar=null", CLOCK),
)
FILE = "FIRST_STEP"


class Clock(pl.Callback):
    """Notes when the first step begins, in the file that the environment variable names."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Write the time, once."""
        file = Path(os.environ[FILE])
        if not file.exists():
            file.write_text(str(time.time()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    import slurm
    from benchmarks.pairs import save

    missing = slurm.why_not()
    print(missing or "with SLURM", flush=True)
    with tempfile.TemporaryDirectory() as root:
        environment = {} if missing else slurm.up(Path(root) / "slurm")
        try:
            seconds = measure(Path(root), args.rounds, environment)
        finally:
            slurm.down(Path(root) / "slurm")
    results = {way: round(statistics.median(values), 2) for way, values in seconds.items()}
    for way, median in results.items():
        print(f"{way:15} {median:6.2f} s to the first step, {median - results['plain']:+.2f} s", flush=True)
    save("cluster_overhead", {"rounds": args.rounds, "seconds_to_first_step": results})


def measure(root: Path, rounds: int, environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Seconds to the first step, by way."""
    clusters = ["local", "joblib", "submitit_local", *(["slurm"] if environment else [])]
    seconds: dict[str, list[float]] = {way: [] for way in ("plain", "resumed", *clusters)}
    for index in range(rounds):
        folder = root / str(index)
        ways = {"plain": [*JOB, f"hydra.run.dir={folder}/plain"]}
        ways["resumed"] = [f"resume={folder}/plain", "trainer.max_epochs=2", "trust=[benchmarks]"]
        ways |= {name: ["-m", f"cluster={name}", *JOB, f"hydra.sweep.dir={folder}/{name}"] for name in clusters}
        for way, command in ways.items():
            seconds[way].append(to_first_step(command, folder / f"{way}.time", environment))
            print(f"{way} {seconds[way][-1]:.2f} s", flush=True)
    return seconds


def to_first_step(command: Sequence[str], file: Path, environment: Mapping[str, str]) -> float:
    """Seconds until the first step of a job."""
    file.parent.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    everything = {**os.environ, **environment, FILE: str(file), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    started = time.time()
    run = [sys.executable, "-m", "lsa_lightning.cli.train", *command]
    subprocess.run(run, check=True, env=everything, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return float(file.read_text()) - started


if __name__ == "__main__":
    main()
