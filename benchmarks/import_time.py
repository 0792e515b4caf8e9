"""How long ``import lsa_lightning`` takes, beside ``import lightning.pytorch``.

    python benchmarks/import_time.py [--runs 7]

Fresh interpreters, alternating, after one of each that warms the disk. Prints both medians, and the median of the
ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

MODULES = ("lightning.pytorch", "lsa_lightning")


def main() -> None:
    """Measure in pairs, so that whatever else the machine does hits both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    pairs = [[seconds(module) for module in MODULES] for _ in range(args.runs + 1)][1:]
    for module, times in zip(MODULES, zip(*pairs, strict=True), strict=True):
        print(f"import {module}: {statistics.median(times):.2f} s")
    print(f"ratio: {statistics.median(ours / theirs for theirs, ours in pairs):.3f}")


def seconds(module: str) -> float:
    """Wall time of an interpreter that imports ``module``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
