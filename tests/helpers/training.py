"""A foreign LightningModule, trained through Trainer and by the hand-written loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.reference_loop import at_lr_loop
from torch import nn

from lsa_lightning.attacks import PGD

MVL = ["net.relu1", "net.act"]
LAYERS = ["net.relu1", "net.relu2", "net.act"]


def pgd() -> PGD:
    return PGD(eps=0.1, steps=3, seed=0)


def foreign(cls: type[ForeignModule] = ForeignModule, **kwargs: Any) -> ForeignModule:
    torch.manual_seed(0)
    return cls(**kwargs)


def fit(module: ForeignModule, callback: pl.Callback, collate: Any = None, **kwargs: Any) -> pl.Trainer:
    torch.manual_seed(1)
    run = trainer([callback], **kwargs)
    run.fit(module, loader(collate=collate), loader(seed=1, collate=collate))
    return run


def reference(module: ForeignModule, gamma: dict[str, float], epochs: int = 1, **kwargs: Any) -> ForeignModule:
    torch.manual_seed(1)
    optimizer, attack = module.configure_optimizers(), pgd()
    for _ in range(epochs):
        at_lr_loop(module, loader(), attack, optimizer, module.net.hidden, gamma, **kwargs)
    return module


def assert_same(module: nn.Module, other: nn.Module, tolerance: float = 1e-6) -> None:
    expected = other.state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


class SaveWithin(pl.Callback):
    """Saves a checkpoint in the second epoch, after its first step."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 0):
            trainer.save_checkpoint(self.file)
