"""Time of a step of AT-LR over that of a step of AT, on VGG-19 with PGD-10.

    python -m benchmarks.at_lr_cost [--rounds 10] [--batch 64] [--device cuda]

A step is the wrapped ``training_step`` and the backward pass in a running fit, without the optimizer. The penalty is on
the first layer alone, on the seventh alone, and on all sixteen. In each round AT and the three take one step each.

An attack step costs 2 F, F being the work of a forward pass, and a training step 3 F; a penalty whose deepest layer is
reached after the share d of F adds 3 d F. ``limit`` is what that alone makes, with d counted from the network's FLOPs.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.pairs import Ratio, save, seconds
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustClassifier
from lsa_lightning.attacks import PGD
from lsa_lightning.models import VGG19

ATTACK_STEPS, LAYERS = 10, {"1": [1], "7": [7], "all 16": list(range(1, 17))}

Step = Callable[[], None]


class Pause(pl.Callback):
    """At the first batch of a fit, gives its step to ``use``; then the fit ends."""

    def __init__(self, use: Callable[[Step], None]) -> None:
        self.use = use

    def on_train_batch_start(  # type: ignore[override]  # -1 ends the epoch
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> int:
        """Take over."""

        def step() -> None:
            loss: Any = pl_module.training_step(batch, 0)
            loss.backward()
            pl_module.zero_grad()

        self.use(step)
        return -1


def in_fits(callbacks: dict[str, pl.Callback], batch: int, device: str, use: Callable[[dict[str, Step]], None]) -> None:
    """Call ``use`` with the step of each callback, all of whose fits are running."""

    def enter(left: list[str], steps: dict[str, Step]) -> None:
        if not left:
            use(steps)
            return
        pause = Pause(lambda step: enter(left[1:], {**steps, left[0]: step}))
        trainer = pl.Trainer(accelerator=device, devices=1, max_epochs=1, barebones=True)
        trainer.callbacks += [callbacks[left[0]], pause]  # type: ignore[attr-defined]
        torch.manual_seed(0)
        data = TensorDataset(torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,)))
        trainer.fit(RobustClassifier(VGG19()), DataLoader(data, batch_size=batch))

    enter(list(callbacks), {})


def limit(deepest: int) -> float:
    """The ratio by FLOPs alone."""
    network, x = VGG19(), torch.zeros(1, 3, 32, 32)

    def flops(part: nn.Module) -> int:
        with FlopCounterMode(display=False) as counted:
            part(x)
        return int(counted.get_total_flops())

    network.eval()
    end = list(dict(network.named_children())).index(f"act{deepest}") + 1
    share = flops(nn.Sequential(*list(network)[:end])) / flops(network)
    return 1 + 3 * share / (2 * ATTACK_STEPS + 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    attack = PGD(8 / 255, steps=ATTACK_STEPS, seed=0)
    callbacks: dict[str, pl.Callback] = {"AT": AdversarialTraining(attack)}
    for name, numbers in LAYERS.items():
        mvl = [f"backbone.act{number}" for number in numbers]
        callbacks[name] = ATLR(attack, mvl=mvl, analysis_every_n_epochs=0, regularizer=LayerwiseRegularizer(gamma=0.1))
    costs: dict[str, list[float]] = {name: [] for name in callbacks}

    def measure(steps: dict[str, Step]) -> None:
        for step in steps.values():
            step()
        names = list(steps)
        for turn in range(args.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                costs[name].append(seconds(steps[name]))

    in_fits(callbacks, args.batch, "gpu" if args.device == "cuda" else "cpu", measure)
    results: dict[str, Any] = {"batch": args.batch}
    for name, numbers in LAYERS.items():
        results[name] = Ratio.of(costs[name], costs["AT"])
        results[f"{name}, limit"] = limit(numbers[-1])
        print(f"penalty on {name}: {results[name]} of AT; by FLOPs {results[f'{name}, limit']:.3f}")
    save("at_lr_cost", results)


if __name__ == "__main__":
    main()
