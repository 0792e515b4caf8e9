"""Bar: ``lsa-train seeds=range(0,20)`` takes at most 0.1 of the time of 20 single runs, to the same weights.

    python benchmarks/many_seeds.py [--experiment moon_at_lr] [--seeds 20] [--singles 20] [--epochs 50]

Whole commands, figures, evaluation and masking checks included. With fewer ``--singles`` than ``--seeds``, the time of
the single runs is scaled, and said to be. Times are wall time; processor time stands beside it, for a machine that is
not quiet.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from benchmarks.pairs import save

QUIET = ["callbacks.progress_bar=null", "+trainer.enable_progress_bar=false"]


class Cost(NamedTuple):
    """What a command takes.

    Attributes:
        wall: wall time in seconds.
        processor: processor time in seconds.
    """

    wall: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="moon_at_lr")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--singles", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    common = [f"experiment={args.experiment}", f"trainer.max_epochs={args.epochs}", *QUIET]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        together = run([*common, f"seeds=range(0,{args.seeds})", f"hydra.run.dir={folder}/stacked"])
        alone = [run([*common, f"seed={k}", f"hydra.run.dir={folder}/{k}"]) for k in range(args.singles)]
        apart = [difference(folder / f"stacked/seed={k}", folder / str(k)) for k in range(args.singles)]
    scale = args.seeds / args.singles
    total = Cost(*(scale * sum(each) for each in zip(*alone, strict=True)))
    ratios = {"wall": together.wall / total.wall, "processor": together.processor / total.processor}
    scaled = "" if scale == 1 else f" (scaled from {args.singles})"
    print(f"{args.seeds} seeds at once: {together.wall:.1f} s, processor {together.processor:.1f} s")
    print(f"{args.seeds} single runs{scaled}: {total.wall:.1f} s, processor {total.processor:.1f} s")
    print(f"ratio {ratios['wall']:.3f} of wall time (bar 0.1), {ratios['processor']:.3f} of processor time")
    print(f"largest difference of a weight after {args.epochs} epochs: {max(apart):.2g} (bar 1e-4)")
    measured = {"together": together._asdict(), "alone": [each._asdict() for each in alone]}
    save("many_seeds", {**vars(args), **measured, "ratio": ratios, "largest_difference_by_seed": apart})


def run(overrides: list[str]) -> Cost:
    """Run ``lsa-train`` with ``overrides``."""
    command = [sys.executable, "-m", "lsa_lightning.cli.train", *overrides]
    before, started = processor(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Cost(time.perf_counter() - started, processor() - before)


def processor() -> float:
    """Processor time of all commands so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def difference(one: Path, other: Path) -> float:
    """The largest difference of a weight between the last checkpoints of two runs."""
    states = [torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in (one, other)]
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


if __name__ == "__main__":
    main()
