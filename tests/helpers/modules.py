"""Networks and LightningModules that know nothing of this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class ConvNet(nn.Module):
    """Convolution, BatchNorm, in-place ReLU, dropout, linear: 8 x 8 images of one channel, 3 classes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(4 * 64, 8)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(x)["net.act"])

    def hidden(self, x: Tensor) -> dict[str, Tensor]:
        """The representations that the library should read, written out by hand."""
        first = F.relu(self.bn1(self.conv1(x)))
        second = F.relu(self.conv2(first))
        return {
            "net.relu1": first,
            "net.relu2": second,
            "net.act": torch.tanh(self.fc1(self.dropout(second).flatten(1))),
        }


class ModularConvNet(ConvNet):
    """The same numbers, but through the activation modules, which hooks can see."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.dropout(self.relu2(self.conv2(x)))
        return self.fc2(self.act(self.fc1(x.flatten(1))))


class ForeignModule(pl.LightningModule):
    """Somebody's LightningModule: own loss, SGD with momentum, a training_step without batch_idx."""

    def __init__(self, dropout: float = 0.0, lr: float = 0.1) -> None:
        super().__init__()
        self.net = ModularConvNet(dropout)
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class DictForeignModule(ForeignModule):
    """Batches are dicts, and training_step returns one."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        return {"loss": F.cross_entropy(logits, batch["label"]), "logits": logits.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch["image"]), batch["label"]))


def images(n: int = 48, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random pixels in [0, 1] whose mean tells the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = (torch.rand(n, 1, 8, 8, generator=generator) * 0.5 + y.view(-1, 1, 1, 1) * 0.25).clamp(0, 1)
    return x, y


def loader(
    n: int = 48, batch_size: int = 16, seed: int = 0, collate: Callable[..., Any] | None = None
) -> DataLoader[Any]:
    """Unshuffled batches of :func:`images`."""
    return DataLoader(TensorDataset(*images(n, seed)), batch_size=batch_size, collate_fn=collate)


def one_batch(batch: Any) -> DataLoader[Any]:
    """A dataloader that gives ``batch`` once, as it is."""
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


def as_dicts(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Collate to a dict batch."""
    return {"image": torch.stack([x for x, _ in rows]), "label": torch.stack([y for _, y in rows])}


def trainer(callbacks: list[pl.Callback], **kwargs: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU."""
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=callbacks, **{**defaults, **kwargs})
