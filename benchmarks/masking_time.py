"""Time of the masking checks of the paper's model B at their default settings.

    python -m benchmarks.masking_time DATA_ROOT [--train-size 2000]

Needs DATA_ROOT/MNIST/raw. Trains model B on the images as they are, and on PGD's at 0.1; prints and saves, for each,
the seconds of the checks at eps 0.1 on 256 images, alone and with two larger radii of an evaluation, and how many
forward passes over them these are.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.mnist_models import fit, mnist, seed_everything
from benchmarks.pairs import save, seconds
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.models import CNN

EPS, RADII = 0.1, (0.2, 0.3)


def main() -> None:
    """Train, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=2000)
    args = parser.parse_args()
    seed_everything(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, 256)
    x, y = test[0].to(device), test[1].to(device)
    results: dict[str, Any] = {
        "settings": {"train_size": args.train_size, "eps": EPS, "radii": RADII, "samples": len(x)}
    }
    for name, attack in (("normal", None), ("PGD", PGD(EPS, steps=3))):
        net = fit(CNN(), train, 2, attack, lr=1e-3).to(device)
        forward = seconds(partial(passes, net, x)) / 10
        for radii, checks in (("", MaskingChecks(EPS)), (" with radii", MaskingChecks(EPS).with_radii(RADII))):
            took = seconds(partial(checks.run, net, [(x, y)]))
            results[name + radii] = {"seconds": took, "forward passes": took / forward}
            print(f"{name}{radii}: {took:.1f} s, as {took / forward:.0f} forward passes", flush=True)
    save("masking_time", results)


@torch.no_grad()
def passes(net: nn.Module, x: Tensor) -> None:
    """Ten forward passes."""
    for _ in range(10):
        net(x)


if __name__ == "__main__":
    main()
