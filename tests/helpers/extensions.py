"""What a user might add, one class each. YAML files of ``tests/test_extending.py`` name them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.objectives import Objective


class LargestChange(ComparisonMeasure):
    """The largest change of a coordinate."""

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        return (clean - perturbed).flatten(1).abs().amax(dim=1)


class LogitPairing(Objective):
    """The loss on the adversarial batch, and the squared distance of the two outputs."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        return self.weight * F.mse_loss(clean_logits, adversarial_logits)

    def __repr__(self) -> str:
        return f"LogitPairing(weight={self.weight:g})"


class Rings(pl.LightningDataModule):
    """A disc inside of a ring, in the plane."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        angle, y = torch.linspace(0, 6.28, size), torch.arange(size) % 2
        self.points = TensorDataset(torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + y).unsqueeze(1), y)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.points, batch_size=32)

    val_dataloader = test_dataloader = train_dataloader


class OwnLogger(Logger):
    """A logger that the library does not know; it keeps nothing."""

    name = version = "own"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass
