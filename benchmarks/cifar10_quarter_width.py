"""The CIFAR-10 recipe at a quarter of the width, on a CPU: what another rate or batch size changes.

    python -m benchmarks.cifar10_quarter_width DATA_ROOT [OVERRIDE ...]

Trains ``experiment=cifar10_fast_lr`` for 15 epochs without the penalty on one thread, in bf16, which takes about 40
minutes on a CPU with instructions for it, and attacks all test images at 8/255 with 20 steps of PGD. Re-encoded files,
whose checksums are others, are read too. Adds a row to results/cifar10_quarter_width.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pairs import RESULTS, save

NARROW = (
    "model.backbone._target_=lsa_lightning.models.preact_resnet.PreActResNet",
    "+model.backbone.stem=16",
    "+model.backbone.widths=[16,32,64,128]",
    "+model.backbone.blocks=2",
)
SETTINGS = (
    "compile=false",
    "trainer.accelerator=cpu",
    "num_threads=1",
    "trainer.max_epochs=15",
    "regularizer.gamma=0",
    "callbacks.atlr.analysis_every_n_epochs=100",
    "callbacks.robust_validation.every_n_epochs=5",
    "analysis=null",
    "evaluation.masking=null",
    "evaluation.attacks.fgsm=null",
    "evaluation.eps=[8/255]",
    "data.num_workers=0",
    "data.dataset_cls.path=benchmarks.data_throughput.UncheckedCIFAR10",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lsa_lightning.cli.train", "experiment=cifar10_fast_lr", *NARROW, *SETTINGS]
        own = [f"data.root={options.data_root}", f"hydra.run.dir={folder}", *options.overrides]
        subprocess.run([*command, *own], check=True)
        accuracy = json.loads((Path(folder) / "summary.json").read_text())["accuracy"]["pgd"]
    row = {"overrides": options.overrides, "clean": accuracy[0], "pgd_20": accuracy[-1]}
    print(row)
    before = earlier()
    save("cifar10_quarter_width", {**before, "runs": [*before["runs"], row]})


def earlier() -> dict[str, Any]:
    """What the file has, but for the machine of its last row."""
    file = RESULTS / "cifar10_quarter_width.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    return {key: value for key, value in found.items() if key != "machine"}


if __name__ == "__main__":
    main()
