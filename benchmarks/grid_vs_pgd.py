"""Robust accuracy read off the decision boundary beside the strongest PGD, and the ceiling of Moon.

    python -m benchmarks.grid_vs_pgd [--seeds 3] [--epochs 50] [--restarts 5] [--ceiling 8000]

Trains model A on Moon with ``lsa-train experiment=moon_at``, and prints for each eps the mean over the seeds of: the
lower bound (the row ``exact``), the upper bound, PGD-100 from one random start, and from the worst of several. Exits
with status 1 if the lower bound is anywhere above PGD, of a seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.pairs import save

from lsa_lightning import MoonDataModule
from lsa_lightning.attacks import PGD
from lsa_lightning.evaluation import CeilingBound, correct
from lsa_lightning.runs.checkpoint import load_run

RADII = [0.1, 0.2, 0.3, 0.4, 0.5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--ceiling", type=int, default=8000, help="points that the ceiling is computed on, as one part")
    args = parser.parse_args()
    each = trained_and_measured(args.seeds, args.epochs, args.restarts)
    columns = {name: zip(*(rows[name] for rows in each), strict=True) for name in each[0]}
    means = {name: [round(fmean(column), 2) for column in own] for name, own in columns.items()}
    for name, row in means.items():
        print(f"{name:16}", " ".join(f"{accuracy:6.2f}" for accuracy in row), f"  sum {sum(row):.2f}")
    pairs = [pair for rows in each for pair in zip(rows["at least"], rows["PGD-100, worst"], strict=True)]
    above = sum(exact > pgd for exact, pgd in pairs)
    gaps = [round(pgd - exact, 2) for exact, pgd in zip(means["at least"], means["PGD-100, worst"], strict=True)]
    print(f"at least above PGD: {above} times; PGD minus at least, by eps: {gaps}")
    data = MoonDataModule(test_size=args.ceiling)
    data.setup("test")
    x, y = data.splits[2].tensors
    ceiling = CeilingBound(part=args.ceiling).of(x, y, [0.0, *RADII])
    print(f"ceiling on {args.ceiling} points: R&G {ceiling.rg_score:.2f}, by eps {ceiling.accuracy}")
    save("grid_vs_pgd", {**vars(args), "eps": RADII, "mean": means, "above": above, "ceiling": ceiling.to_dict()})
    sys.exit(above > 0)


def trained_and_measured(seeds: int, epochs: int, restarts: int) -> list[dict[str, list[float]]]:
    """The rows of accuracies in percent of each seed."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"seeds={list(range(seeds))}", f"trainer.max_epochs={epochs}", f"hydra.run.dir={folder}"]
        settings += ["analysis=null", "evaluation.masking=null", "evaluation.draw=null", "evaluation.ceiling=null"]
        command = [sys.executable, "-m", "lsa_lightning.cli.train", "experiment=moon_at", *settings]
        subprocess.run([each.replace(" ", "") for each in command], check=True, stdout=subprocess.DEVNULL)
        return [rows_of(Path(folder) / f"seed={seed}", restarts) for seed in range(seeds)]


def rows_of(run: Path, restarts: int) -> dict[str, list[float]]:
    """The grid's bounds as the run measured them, and PGD-100 on its model."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    trained = load_run(str(run / "checkpoints" / "best.ckpt"))
    trained.data.setup("test")
    x, y = next(iter(trained.data.test_dataloader()))
    once, worst = [], []
    for eps in RADII:
        standing = torch.ones(len(x), dtype=torch.bool)
        for start in range(restarts):
            attack = PGD(eps, steps=100, bounds=None, best="success", seed=start)
            left = standing.nonzero().flatten()  # the others have fallen
            standing[left] = correct(trained.model, attack(trained.model, x[left], y[left]), y[left])
            if start == 0:
                once.append(100 * float(standing.float().mean()))
        worst.append(100 * float(standing.float().mean()))
    grid = {"at least": summary["accuracy"]["exact"][1:], "at most": summary["at_most"]["exact"][1:]}
    return {**grid, "PGD-100": once, "PGD-100, worst": worst}


if __name__ == "__main__":
    main()
