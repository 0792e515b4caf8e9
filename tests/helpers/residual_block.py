"""A network with every case of the default rule for layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Block(nn.Module):
    """Every case of the default rule: shared ReLU, sum before the activation, norm only, functional activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(4 * 16, 8)
        self.idle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.conv1(x))))
        out += self.shortcut(x)
        return self.head(F.relu(self.fc1(self.relu(out).flatten(1))))


X = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
