"""Which experiments of conf/ leave a network dead, that is no better than chance, over many seeds?

    python -m benchmarks.dead_networks [--experiments moon_at_lr ...] [--methods paper centred] [--seeds 20]
        [--data DATA_ROOT] [-- OVERRIDES]

Each pair of an experiment and a method is trained by lsa-train with the seeds side by side (``seeds=range(...)``) where
they can be stacked, else by a sweep. A network is dead if its clean validation accuracy at the end is at most --margin
points above that of guessing. Experiments on images need DATA_ROOT; for a small run, shorten them:
``-- trainer.max_epochs=2``. Writes each row to results/dead_networks.json, in place of that pair's earlier one.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.pairs import RESULTS, save

from lsa_lightning.utils.paths import CONF_DIR

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
ALONE = ("moon_awp", "moon_at_fast", "gated", "unlabelled")
"""Experiments and methods with parts that cannot be stacked."""

TRAIN_ONLY = ("analysis=null", "evaluation=null", "optimized_metric=val/acc_clean", "~callbacks.progress_bar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--methods", nargs="+", default=["default"], help="files of conf/method")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--margin", type=float, default=5.0, help="points above chance")
    parser.add_argument("--data", type=Path, help="folder of the image data sets")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    pairs = [(experiment, method) for experiment in args.experiments for method in args.methods]
    for experiment, method in pairs:
        keep(row(experiment, method, args))


def keep(new: dict[str, Any]) -> None:
    """Write a row in place of that pair's earlier one."""
    file = RESULTS / "dead_networks.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    others = [row for row in rows if (row["experiment"], row["method"]) != (new["experiment"], new["method"])]
    save("dead_networks", {"rows": [*others, new]})


def row(experiment: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Clean accuracies by seed, how many are at chance, and how that was trained."""
    root = [] if experiment.startswith("moon") else [f"data.root={args.data}"]
    together = experiment.startswith("moon") and not {experiment, method} & {*ALONE}
    overrides = [f"experiment={experiment}", f"method={method}", *root, *args.overrides]
    accuracies = train(overrides, args.seeds, together=together)
    chance = 50.0 if experiment.startswith("moon") else 10.0
    dead = sum(accuracy <= chance + args.margin for accuracy in accuracies)
    lowest = min(accuracies)
    print(
        f"{experiment:<22} {method:<12} dead {dead} of {args.seeds}, lowest clean accuracy {lowest:.1f} %", flush=True
    )
    how = {"overrides": args.overrides, "margin": args.margin, "torch": torch.__version__}
    return {"experiment": experiment, "method": method, "dead": dead, "clean": accuracies, **how}


def train(overrides: list[str], seeds: int, *, together: bool) -> list[float]:
    """Clean accuracy in percent of each seed."""
    with tempfile.TemporaryDirectory() as folder:
        alone = ["-m", f"seed={','.join(map(str, range(seeds)))}", f"hydra.sweep.dir={folder}"]
        sweep = [f"seeds=range(0,{seeds})", f"hydra.run.dir={folder}"] if together else alone
        command = [sys.executable, "-m", "lsa_lightning.cli.train", *overrides, *TRAIN_ONLY, *sweep]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [last_accuracy(file) for file in sorted(Path(folder).rglob("metrics.csv"))]


def last_accuracy(file: Path) -> float:
    """Clean validation accuracy in percent at the end of training; the best checkpoint may be of an earlier epoch."""
    with file.open() as rows:
        values = [row["val/acc_clean"] for row in csv.DictReader(rows) if row.get("val/acc_clean")]
    return 100 * float(values[-1])


if __name__ == "__main__":
    main()
