"""Table 2 of the paper on our Moon: accuracy under FGSM and PGD, mean and spread over seeds.

    python benchmarks/moon_table.py [--methods Normal AT-FGSM ...] [--seeds 5] [--output FILE]

Each row is an ordinary ``lsa-train -m`` sweep over seeds, so the figures are those a user gets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = {
    "Normal": ["experiment=moon_normal"],
    "AT-FGSM": ["experiment=moon_at", "attack=fgsm"],
    "AT-FGSM-LR": ["experiment=moon_at_lr", "attack=fgsm"],
    "AT-PGD": ["experiment=moon_at"],
    "AT-PGD-LR": ["experiment=moon_at_lr"],
    "AT-FAST": ["experiment=moon_at", "attack=ffgsm"],
    "AT-FAST-LR": ["experiment=moon_at_lr", "attack=ffgsm"],
    "AT-TRADES": ["experiment=moon_at", "attack=tpgd", "objective=trades"],
    "AT-TRADES-LR": ["experiment=moon_at_lr", "attack=tpgd", "objective=trades"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/moon_table.json"))
    args = parser.parse_args()
    rows = {}
    for method in args.methods:
        rows[method] = summarise(run(METHODS[method], args.seeds))
        print_row(method, rows[method])
    args.output.write_text(json.dumps(rows, indent=2) + "\n")


def run(overrides: list[str], seeds: int) -> list[dict[str, Any]]:
    """The summaries of a sweep over ``seeds`` seeds."""
    with tempfile.TemporaryDirectory() as folder:
        seed_list = ",".join(map(str, range(seeds)))
        sweep = [f"seed={seed_list}", f"hydra.sweep.dir={folder}", "~callbacks.progress_bar"]
        sweep += ["analysis=null", "evaluation.masking=null", "evaluation.draw=null"]  # only accuracies are needed
        command = [sys.executable, "-m", "lsa_lightning.cli.train", "-m", *overrides, *sweep]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [json.loads((Path(folder) / f"seed-{i}" / "summary.json").read_text()) for i in range(seeds)]


def summarise(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracies and mean and spread of R&G, by attack."""
    row: dict[str, Any] = {"seeds": len(summaries), "eps": summaries[0]["eps"], "versions": summaries[0]["versions"]}
    row["training_seconds"] = round(statistics.mean(s["training_seconds"] for s in summaries), 1)
    for attack in summaries[0]["accuracy"]:
        scores = [s["rg_score"][attack] for s in summaries]
        columns = zip(*(s["accuracy"][attack] for s in summaries), strict=True)
        row[attack] = {
            "accuracy": [round(statistics.mean(column), 2) for column in columns],
            "rg_score_mean": round(statistics.mean(scores), 2),
            "rg_score_std": round(statistics.stdev(scores), 2) if len(scores) > 1 else None,
            "rg_score_each": [round(score, 2) for score in scores],
        }
    return row


def print_row(method: str, row: dict[str, Any]) -> None:
    for attack in ("fgsm", "pgd"):
        accuracy = " ".join(f"{a:6.2f}" for a in row[attack]["accuracy"])
        mean, std = row[attack]["rg_score_mean"], row[attack]["rg_score_std"]
        print(f"{method:13} under {attack:4}  {accuracy}   R&G {mean:.2f} +- {std}", flush=True)


if __name__ == "__main__":
    main()
