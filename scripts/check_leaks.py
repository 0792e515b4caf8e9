"""Counts hooks, live tensors and resident memory over many analyses and training steps.

    python scripts/check_leaks.py [--calls 1000] [--steps 1000]

Prints the counts after a warm-up of a tenth and at the end, and exits with 1 if hooks or tensors grew, or resident
memory grew by more than 1 %.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import sys
import warnings
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lsa_lightning import ATLR, LayerSustainabilityAnalysis, MoonDataModule, RobustClassifier
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.models import MLP

Counts = dict[str, int]


def main() -> None:
    """Run both checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    grew = [
        report("analyses", args.calls, analyses(args.calls)),
        report("training steps", args.steps, training(args.steps)),
    ]
    sys.exit(any(grew))


def analyses(calls: int) -> list[Counts]:
    """Counts after a tenth of the calls and after all of them."""
    model = MLP()
    batch = [(torch.rand(32, 2), torch.randint(2, (32,)))]
    analysis = LayerSustainabilityAnalysis(model)
    found = []
    for call in range(1, calls + 1):
        analysis.run(batch, FGSM(0.1))
        if call in (calls // 10, calls):
            found.append(count(model))
    return found


def training(steps: int) -> list[Counts]:
    """Counts after a tenth of the steps and after all of them; 10 steps make an epoch."""
    model, found = RobustClassifier(MLP()), []

    def on_train_batch_end(trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step in (steps // 10, steps):
            found.append(count(model))

    watch: Callable[..., None] = on_train_batch_end
    callbacks = [ATLR(PGD(0.3, steps=2, bounds=None), top_k=1), pl.callbacks.LambdaCallback(on_train_batch_end=watch)]
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, MoonDataModule(train_size=320, val_size=100, test_size=1, batch_size=32))
    return found


def count(model: nn.Module) -> Counts:
    """Hooks of ``model``, live tensors, and resident memory in KiB."""
    gc.collect()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    tensors = sum(isinstance(thing, Tensor) for thing in gc.get_objects())
    return {"hooks": hooks, "tensors": tensors, "memory_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def report(what: str, total: int, counts: list[Counts]) -> bool:
    """Print the counts; whether any grew."""
    early, late = counts
    print(f"{what}: after {total // 10}: {early}, after {total}: {late}")
    more_memory = late["memory_kib"] > 1.01 * early["memory_kib"]
    return late["hooks"] > early["hooks"] or late["tensors"] > early["tensors"] or more_memory


if __name__ == "__main__":
    main()
