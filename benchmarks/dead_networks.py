"""Which experiments of conf/ leave a network dead, that is no better than chance, over many seeds?

    python -m benchmarks.dead_networks [--experiments moon_at_lr ...] [--methods paper centred] [--seeds 20]
        [--data DATA_ROOT] [-- OVERRIDES]

Each pair of an experiment and a method is trained by lsa-train with the seeds side by side (``seeds=range(...)``) where
the experiment's network can be stacked, else by a sweep. A network is dead if its clean accuracy on the test points is
at most --margin points above that of guessing. Experiments on images need DATA_ROOT; for a small run, shorten them:
``-- trainer.max_epochs=2``. Writes results/dead_networks.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pairs import save

from lsa_lightning.utils.paths import CONF_DIR

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
TRAIN_ONLY = ("analysis=null", "evaluation.masking=null", "evaluation.draw=null", "~callbacks.progress_bar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--methods", nargs="+", default=["paper"], help="files of conf/method")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--margin", type=float, default=5.0, help="points above chance")
    parser.add_argument("--data", type=Path, help="folder of the image data sets")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    pairs = [(experiment, method) for experiment in args.experiments for method in args.methods]
    rows = [row(experiment, method, args) for experiment, method in pairs]
    settings = {key: value for key, value in vars(args).items() if key != "data"}
    save("dead_networks", {"settings": settings, "rows": rows})


def row(experiment: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Clean accuracies by seed, and how many are at chance."""
    root = [] if experiment.startswith("moon") else [f"data.root={args.data}"]
    accuracies = train([f"experiment={experiment}", f"method={method}", *root, *args.overrides], experiment, args.seeds)
    chance = 50.0 if experiment.startswith("moon") else 10.0
    dead = sum(accuracy <= chance + args.margin for accuracy in accuracies)
    lowest = min(accuracies)
    print(
        f"{experiment:<22} {method:<12} dead {dead} of {args.seeds}, lowest clean accuracy {lowest:.1f} %", flush=True
    )
    return {"experiment": experiment, "method": method, "dead": dead, "clean": accuracies}


def train(overrides: list[str], experiment: str, seeds: int) -> list[float]:
    """Clean accuracy in percent of each seed."""
    with tempfile.TemporaryDirectory() as folder:
        if experiment == "moon_awp" or not experiment.startswith("moon"):
            sweep = ["-m", f"seed={','.join(map(str, range(seeds)))}", f"hydra.sweep.dir={folder}"]
        else:
            sweep = [f"seeds=range(0,{seeds})", f"hydra.run.dir={folder}"]
        command = [sys.executable, "-m", "lsa_lightning.cli.train", *overrides, *TRAIN_ONLY, *sweep]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        files = sorted(Path(folder).rglob("summary.json"))
        return [json.loads(file.read_text())["accuracy"]["clean"] for file in files]


if __name__ == "__main__":
    main()
