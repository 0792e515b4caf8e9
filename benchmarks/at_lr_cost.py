"""Time of a step of AT-LR over that of a step of AT, on VGG-19 with PGD-10.

    python -m benchmarks.at_lr_cost [--rounds 10] [--batch 64] [--device cuda]

A step is the wrapped ``training_step`` and the backward pass in a running fit, without the optimizer. The penalty is on
the first layer alone, on the seventh alone, and on all sixteen. In each round AT and the three take one step each. Each
trains in a process of its own, as it would: in a shared one, what a step pays for memory depends on what the step
before it, another's, has left. Peak memory is that of all live tensors, see benchmarks/lsa_cost.py.

An attack step costs 2 F, F being the work of a forward pass, and a training step 3 F; a penalty whose deepest layer is
reached after the share d of F adds 3 d F. ``limit`` is what that alone makes, with d counted from the network's FLOPs.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.lsa_cost import peak_bytes
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


def train(name: str, batch: int, device: str, orders: Connection) -> None:
    """A fit that takes a step whenever it is told to, and answers with its cost."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def obey(step: Step) -> None:
        while (order := orders.recv()) != "end":
            orders.send(seconds(step) if order == "time" else peak_bytes(step, torch.device(device)))

    torch.manual_seed(0)
    data = TensorDataset(torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,)))
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer = pl.Trainer(accelerator=accelerator, devices=1, max_epochs=1, barebones=True)
    trainer.callbacks += [callback(name), Pause(obey)]  # type: ignore[attr-defined]
    trainer.fit(RobustClassifier(VGG19()), DataLoader(data, batch_size=batch))


def callback(name: str) -> pl.Callback:
    """AT, or AT-LR with a penalty on one of ``LAYERS``."""
    attack = PGD(8 / 255, steps=ATTACK_STEPS, seed=0)
    if name == "AT":
        return AdversarialTraining(attack)
    mvl = [f"backbone.act{number}" for number in LAYERS[name]]
    return ATLR(attack, mvl=mvl, analysis_every_n_epochs=0, regularizer=LayerwiseRegularizer(gamma=0.1))


def asked(fit: Connection, order: str) -> Any:
    """What a fit answers."""
    fit.send(order)
    return fit.recv()


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
    names, fits = ["AT", *LAYERS], {}
    spawned = multiprocessing.get_context("spawn")
    for name in names:
        fits[name], theirs = spawned.Pipe()
        spawned.Process(target=train, args=(name, args.batch, args.device, theirs), daemon=True).start()
        theirs.close()  # so that nothing is waited for from a process that has died
        asked(fits[name], "time")  # warms up
    costs: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            costs[name].append(asked(fits[name], "time"))
    memory = {name: asked(fits[name], "memory") for name in names}
    for fit in fits.values():
        fit.send("end")
    results: dict[str, Any] = {"batch": args.batch}
    for name, numbers in LAYERS.items():
        results[name] = Ratio.of(costs[name], costs["AT"])
        results[f"{name}, limit"] = limit(numbers[-1])
        more = results[f"{name}, memory"] = memory[name] / memory["AT"]
        print(f"penalty on {name}: {results[name]} of AT; by FLOPs {results[f'{name}, limit']:.3f}; memory {more:.2f}")
    save("at_lr_cost", results)


if __name__ == "__main__":
    main()
