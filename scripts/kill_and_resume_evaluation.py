"""Kills lsa-evaluate with SIGKILL at random moments, starts it again, and compares it with one that was never killed.

    python scripts/kill_and_resume_evaluation.py CKPT [OVERRIDE ...] [--kills 3] [--seed 0]

CKPT is a checkpoint that lsa-train wrote, overrides are those of lsa-evaluate. Prints how many batches were finished at
each kill, whether the tables are the same to the last byte, and the peak memory of evaluations of 2 batches and of all.
Exits with 1 if the tables differ.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as root:
        few, all_, again = (Path(root) / name for name in ("few", "all", "again"))
        peak_few = finish(start(args, few, "limit_batches=2"))
        peak_all = finish(start(args, all_))
        total = finished(all_)
        print(f"peak memory: {peak_few} MiB for {finished(few)} batches, {peak_all} MiB for {total}", flush=True)
        for target in sorted(moments.sample(range(total), args.kills)):
            child = start(args, again)
            while finished(again) < target and child.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.2))
            child.kill()
            child.wait()
            print(f"killed with {finished(again)} of {total} batches finished", flush=True)
        finish(start(args, again))
        names = ("evaluation.csv", "evaluation.json")
        same = all((again / name).read_bytes() == (all_ / name).read_bytes() for name in names)
    print("the tables are identical" if same else "the tables are DIFFERENT")
    sys.exit(not same)


def start(args: argparse.Namespace, folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """lsa-evaluate in a process of its own."""
    command = [sys.executable, "-m", "lsa_lightning.cli.evaluate", f"ckpt_path={args.checkpoint}"]
    command += [f"hydra.run.dir={folder}", *args.overrides, *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(child: subprocess.Popen[bytes]) -> int:
    """Wait for the end; peak memory in MiB."""
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        msg = f"expected lsa-evaluate to end well, got status {status}"
        raise RuntimeError(msg)
    return usage.ru_maxrss // 1024


def finished(folder: Path) -> int:
    """Number of batches noted."""
    return sum(max(file.read_text().count("\n") - 1, 0) for file in (folder / "state").glob("*.jsonl"))


if __name__ == "__main__":
    main()
