"""Models that do more in eval mode than map x to logits."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Drawing(nn.Module):
    """Drops units in eval mode too, as Monte Carlo dropout does; draws from all global generators."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        factor = 1 + random.random() + float(np.random.rand())
        hidden = F.dropout(self.act(self.fc1(x)), 0.5, training=True)
        return self.head(torch.relu(self.fc2(factor * hidden)))


class Counting(nn.Module):
    """Writes buffers in eval mode: in place, by assignment, and a range as quantisation observers do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 16)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(()))
        self.register_buffer("highest", torch.zeros(1))
        self.calls: Tensor
        self.last: Tensor
        self.highest: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.detach().mean()
        self.highest.copy_(torch.maximum(self.highest, x.detach().max().view(1)))
        return self.fc2(self.act(self.fc1(x)))


class NormalisingInPlace(nn.Module):
    """Changes the tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 16)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x.sub_(0.5).div_(0.25))))


def points(n: int = 16) -> tuple[Tensor, Tensor]:
    """``n`` inputs in [0, 1]^8 and labels of four classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 8, generator=generator), torch.randint(4, (n,), generator=generator)
