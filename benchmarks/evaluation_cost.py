"""Cost of a PGD-50 evaluation over that of a plain loop of torchattacks' PGD-50, on a half robust model.

    python -m benchmarks.evaluation_cost DATA_ROOT [--samples 512] [--pairs 10]

Needs the extra [attacks] and DATA_ROOT/MNIST/raw. Trains a small CNN for a moment, looks for the radius at which PGD
leaves about half of the images, and prints and saves the ratio of the two times and both accuracies. The plain loop is
what one writes by hand: attack each batch, count who is still right. Ours is what ``lsa-evaluate`` runs. Both step by
eps/4, as 2/255 is of 8/255.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torchattacks
from benchmarks.mnist_models import Batch, cnn, fit, mnist, seed_everything
from benchmarks.pairs import paired, save
from torch import nn

from lsa_lightning.attacks import PGD
from lsa_lightning.evaluation import RobustnessEvaluation

STEPS = 50


def main() -> None:
    """Train, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    seed_everything(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = fit(cnn(args.width), mnist(args.data_root, True, args.train_size), 2).to(device)
    x, y = (part.to(device) for part in mnist(args.data_root, False, args.samples))
    batches = [(x[i : i + args.batch], y[i : i + args.batch]) for i in range(0, len(x), args.batch)]
    eps = min((0.02 * i for i in range(1, 16)), key=lambda eps: abs(ours(net, batches, eps, steps=10) - 50))
    results = {
        "settings": {**vars(args), "data_root": "MNIST", "eps": eps, "steps": STEPS},
        "accuracy in percent": {"ours": ours(net, batches, eps), "torchattacks": theirs(net, batches, eps)},
        "time over that of torchattacks": paired(
            partial(ours, net, batches, eps), partial(theirs, net, batches, eps), args.pairs
        ),
    }
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    save("evaluation_cost", results)


def ours(net: nn.Module, batches: list[Batch], eps: float, steps: int = STEPS) -> float:
    """Accuracy in percent by the evaluation of ``lsa-evaluate``."""
    attack = PGD(eps, eps / 4, steps=steps, best="success")
    return RobustnessEvaluation({"pgd": attack}, [eps], progress=False).run(net, batches).accuracy["pgd"][1]


def theirs(net: nn.Module, batches: list[Batch], eps: float) -> float:
    """The same by a loop written by hand, with the same step size."""
    torch.manual_seed(0)  # torchattacks starts at random points of torch's own generator
    attack, right, samples = torchattacks.PGD(net, eps=eps, alpha=eps / 4, steps=STEPS), 0, 0
    for x, y in batches:
        clean, fooled = net(x).argmax(1) == y, net(attack(x, y)).argmax(1) != y
        right, samples = right + int((clean & ~fooled).sum()), samples + len(x)
    return 100 * right / samples


if __name__ == "__main__":
    main()
