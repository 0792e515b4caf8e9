"""Training in two processes, and what its result is compared with."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import foreign
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "accumulate and clip": ({}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
    "find_unused_parameters": ({"find_unused_parameters": True}, {}),
    "static_graph": ({"static_graph": True}, {}),
    "bf16": ({}, {"precision": "bf16-mixed"}),
}


class InOrder(pl.LightningDataModule):
    """Training batches in order; each process gets every other sample. (Lightning's own sampler would shuffle.)"""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        rows = TensorDataset(*images(64))
        run = self.trainer
        assert run is not None
        sampler = DistributedSampler(rows, run.world_size, run.global_rank, shuffle=False)
        return DataLoader(rows, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(seed=1)


def without_batch_norm(lr: float = 0.1) -> ForeignModule:
    """BatchNorm's statistics are those of one process, so there is no single-process equal."""
    module = foreign(lr=lr)
    module.net.bn1 = nn.Identity()
    return module


def two_processes(callbacks: list[pl.Callback], strategy: dict[str, Any] | None = None, **kwargs: Any) -> pl.Trainer:
    ddp = DDPStrategy(start_method="fork", process_group_backend="gloo", **(strategy or {}))
    return trainer(callbacks, devices=2, strategy=ddp, **kwargs)
