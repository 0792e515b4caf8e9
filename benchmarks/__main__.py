"""Runs the benchmarks of speed, one after another, each in an interpreter of its own.

    python -m benchmarks                         all that need no data
    python -m benchmarks --data FOLDER           those that need MNIST and CIFAR-10 too, as torchvision lays them out
    python -m benchmarks lsa_cost attack_step    these alone
    python -m benchmarks --list                  what there is

Each prints ratios of interleaved pairs, with their quartiles, and writes them with device and versions to
results/NAME.json; the README's figures come from there. How each is called for more pairs or other sizes, its own
docstring says. Quiet machines alone give figures that can be compared.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

BENCHMARKS: dict[str, bool] = {
    "import_time": False,
    "attack_step": False,
    "at_lr_cost": False,
    "lsa_cost": False,
    "analysed_epoch": False,
    "moon_overhead": False,
    "many_seeds": False,
    "cluster_overhead": False,
    "compiled_graphs": False,
    "evaluation_cost": True,
    "masking_time": True,
    "gpu_throughput": False,
    "cifar10_fast": True,
}
"""Benchmarks of speed by name, and whether they read real images."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="benchmarks; default: all")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="real images")
    parser.add_argument("--list", action="store_true", help="list the benchmarks, run none")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"expected names among {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    if options.list:
        for name in BENCHMARKS:
            print(f"{name:18} {first_line(name)}")
        return
    failed = [name for name in options.names or BENCHMARKS if not succeeds(name, options.data)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def succeeds(name: str, data: Path | None) -> bool:
    """Run one; one whose data are not given is left out, with a line that says so."""
    if BENCHMARKS[name] and data is None:
        print(f"== {name}: left out, as it needs --data FOLDER", flush=True)
        return True
    print(f"== {name}: {first_line(name)}", flush=True)
    arguments = [str(data)] if BENCHMARKS[name] else []
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False).returncode == 0


def first_line(name: str) -> str:
    """What a benchmark measures, by its docstring."""
    source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
