"""Trains the example that lies in examples/moon, and puts there what is shared of it.

    python -m scripts.example

It takes about a minute. Afterwards ``lsa-report examples/moon`` writes the page about it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lsa_lightning.runs.portable import share

EXAMPLE = Path(__file__).parents[1] / "examples" / "moon"


def main() -> None:
    """Train, and copy."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        train = [sys.executable, "-m", "lsa_lightning.cli.train", "experiment=moon_at_lr", f"hydra.run.dir={folder}"]
        subprocess.run(train, check=True)
        shutil.rmtree(EXAMPLE)  # a figure may have been a file of another kind
        share(folder, EXAMPLE)
    size = sum(file.stat().st_size for file in EXAMPLE.rglob("*") if file.is_file())
    print(f"{EXAMPLE}: {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
