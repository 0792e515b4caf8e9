"""Does a stronger attack ever look weaker? Robust accuracy along eps, along steps and along attacks, on five models.

    python -m benchmarks.attack_monotonicity DATA_ROOT

Needs DATA_ROOT/MNIST/raw. Prints, per model, each row of accuracies in percent and the largest rise in it, which is 0
where accuracy falls or stays everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.mnist_models import Batch, accuracy, cnn, fit, mlp, mnist, seed_everything, write
from torch import nn

from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, Ensemble

RADII = (0.02, 0.05, 0.1, 0.2, 0.3)
STEPS = (10, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--test-size", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/attack_monotonicity.json"))
    args = parser.parse_args()
    seed_everything(0)
    train, test = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, args.test_size)
    found: dict[str, dict[str, list[float]]] = {}
    for name, model in models(train):
        found[name] = {
            row: [accuracy(model, test, attack) for attack in attacks] for row, attacks in attack_rows().items()
        }
        for row, accuracies in found[name].items():
            print(f"{name:18} {row:24}", " ".join(f"{a:5.1f}" for a in accuracies), f"rise {rise(accuracies):.1f}")
    worst = max(rise(accuracies) for rows in found.values() for accuracies in rows.values())
    print(f"largest rise: {worst:.1f} points")
    sizes = {"train_size": args.train_size, "test_size": args.test_size}
    write(args.output, {**sizes, "largest_rise": worst, "accuracy": found}, "torchvision")


def models(train: Batch) -> Iterator[tuple[str, nn.Module]]:
    """Five networks, trained in different ways."""
    yield "cnn, normal", fit(cnn(), train, epochs=2)
    yield "cnn, FGSM", fit(cnn(), train, epochs=3, attack=FGSM(0.1))
    yield "cnn, PGD", fit(cnn(), train, epochs=3, attack=PGD(0.2, steps=5))
    yield "mlp, normal", fit(mlp(), train, epochs=3)
    yield "mlp, PGD", fit(mlp(), train, epochs=3, attack=PGD(0.1, steps=5))


def attack_rows() -> dict[str, list[Attack | None]]:
    """Rows of attacks, each at least as strong as the one before; None is no attack."""
    eps = 0.1
    ensemble = Ensemble(eps, seed=0, steps=50, n_queries=200)
    return {
        "FGSM, eps": [None, *(FGSM(radius) for radius in RADII)],
        "PGD, eps": [None, *(PGD(radius, best="success", seed=0) for radius in RADII)],
        "APGD, eps": [None, *(APGD(radius, 20, best="success", seed=0) for radius in RADII)],
        "PGD, steps": [PGD(eps, steps=steps, best="success", seed=0) for steps in STEPS],
        "PGD, steps of eps / 4": [PGD(eps, eps / 4, steps=steps, best="success", seed=0) for steps in STEPS],
        "APGD, steps": [APGD(eps, steps, best="success", seed=0) for steps in STEPS],
        "FGSM PGD APGD ensemble": [
            FGSM(eps),
            PGD(eps, best="success", seed=0),
            APGD(eps, 50, best="success", seed=0),
            ensemble,
        ],
    }


def rise(accuracies: list[float]) -> float:
    """The largest increase from one entry to the next."""
    return max(0.0, *(after - before for before, after in pairwise(accuracies)))


if __name__ == "__main__":
    main()
