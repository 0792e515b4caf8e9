"""The CIFAR-10 recipe for one GPU: seconds of training, and accuracy under PGD with 50 steps and 10 restarts.

    python -m benchmarks.cifar10_fast DATA_ROOT [OVERRIDE ...]

Runs ``lsa-train experiment=cifar10_fast_lr`` without its stages after training, then attacks all test images at 8/255
with steps of 2/255, ten times from random starts, passing over who is fooled. Gradients are taken in bf16, and who is
fooled is decided in float32. Re-encoded files, whose checksums are others, are read too. Prints and writes
results/cifar10_fast.json; needs a GPU, else it says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.data_throughput import UncheckedCIFAR10
from benchmarks.pairs import save
from torch import Tensor, nn

from lsa_lightning import CIFAR10DataModule
from lsa_lightning.attacks import PGD
from lsa_lightning.functional import predicted_labels
from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.trust import Trust

EPS, ALPHA, STEPS, RESTARTS = 8 / 255, 2 / 255, 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(options.data_root, Path(folder), options.overrides)
        whole = time.perf_counter() - started
        print(f"trained, {whole:.0f} s", flush=True)
        summary = json.loads((Path(folder) / "summary.json").read_text())
        run = load_run(f"{folder}/checkpoints/last.ckpt", trust=Trust(everything=True))
    model = run.model.to(memory_format=torch.channels_last).eval()
    data = CIFAR10DataModule(options.data_root, dataset_cls=UncheckedCIFAR10, batch_size=1000, num_workers=0)
    data.setup("test")
    batches = [(x.cuda(), y.cuda()) for x, y in data.test_dataloader()]
    with torch.no_grad():
        clean = sum(int((predicted_labels(model(x)) == y).sum()) for x, y in batches) / 100
    started = time.perf_counter()
    stood, seen = 0, 0
    for x, y in batches:
        stood, seen = stood + standing(model, x, y), seen + len(y)
        print(f"{stood} of {seen} images stand", flush=True)
    robust = 100 * stood / seen
    results = {
        "overrides": options.overrides,
        "epochs": summary["epochs"],
        "training_seconds": summary["training_seconds"],
        "command_seconds": round(whole, 1),
        "clean_accuracy": clean,
        "pgd_50_10_accuracy": robust,
        "attack_seconds": round(time.perf_counter() - started, 1),
    }
    print(results)
    save("cifar10_fast", results)


def train(data_root: Path, folder: Path, overrides: list[str]) -> None:
    """The command, without what comes after training."""
    command = [sys.executable, "-m", "lsa_lightning.cli.train", "experiment=cifar10_fast_lr", f"hydra.run.dir={folder}"]
    data = ["data.dataset_cls.path=benchmarks.data_throughput.UncheckedCIFAR10", f"data.root={data_root}"]
    subprocess.run([*command, *data, "analysis=null", "evaluation=null", *overrides], check=True)


def standing(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """How many of the samples no restart fools."""
    for seed in range(RESTARTS):
        with torch.no_grad():
            right = predicted_labels(model(x)) == y
        x, y = x[right], y[right]
        if len(x) == 0:
            return 0
        attack = PGD(EPS, ALPHA, steps=STEPS, best="success", seed=seed)
        with torch.autocast("cuda", torch.bfloat16):
            x_adv = attack(model, x, y)
        with torch.no_grad():
            stands = predicted_labels(model(x_adv)) == y
        x, y = x[stands], y[stands]
    return len(x)


if __name__ == "__main__":
    main()
