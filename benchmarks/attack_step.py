"""Cost of an adversarial training step on VGG-19: in forward passes, and with torchattacks' PGD in its place.

    python -m benchmarks.attack_step [--batch 64] [--steps 10] [--pairs 10]

Prints and saves: the time of a step (PGD with K steps, forward and backward pass, SGD) over that of 2K + 3 forward
passes; that of our PGD over torchattacks' in the same step; and the peak memory of the two attacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
import torchattacks
from benchmarks.memory import peak_bytes
from benchmarks.pairs import paired, save
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.models import VGG19

EPS, ALPHA = 8 / 255, 2 / 255
Craft = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = VGG19().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    x, y = torch.rand(args.batch, 3, 32, 32, device=device), torch.randint(10, (args.batch,), device=device)
    ours: Craft = partial(PGD(EPS, ALPHA, steps=args.steps), net)
    theirs: Craft = torchattacks.PGD(net, eps=EPS, alpha=ALPHA, steps=args.steps)
    crafts: dict[str, Craft] = {"ours": ours, "torchattacks": theirs}
    memory = {name: peak_bytes(partial(craft, x, y), device) for name, craft in crafts.items()}
    steps = {name: partial(train, net, optimizer, craft, x, y) for name, craft in crafts.items()}
    results = {
        "settings": {**vars(args), "model": "VGG-19"},
        "step over 2K + 3 forward passes": paired(
            steps["ours"], partial(passes, net, x, 2 * args.steps + 3), args.pairs
        ),
        "step over the step with torchattacks": paired(steps["ours"], steps["torchattacks"], args.pairs),
        "peak bytes of the attack": memory,
        "peak memory over that of torchattacks": memory["ours"] / memory["torchattacks"],
    }
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    save("attack_step", results)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, craft: Craft, x: Tensor, y: Tensor) -> None:
    """One step of adversarial training."""
    x_adv = craft(x, y)
    optimizer.zero_grad()
    F.cross_entropy(net(x_adv), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def passes(net: nn.Module, x: Tensor, n: int) -> None:
    """``n`` forward passes, as long as they are."""
    with torch.no_grad():
        for _ in range(n):
            net(x)


if __name__ == "__main__":
    main()
