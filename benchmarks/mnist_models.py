"""Small MNIST networks and their training, shared by the benchmarks of attacks."""

from __future__ import annotations

import json
import platform
import random
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.datasets import MNIST

from lsa_lightning.attacks import Attack
from lsa_lightning.functional import classification_loss, predicted_labels
from lsa_lightning.utils.isolation import evaluating

Batch = tuple[Tensor, Tensor]


def mnist(root: Path, train: bool, n: int) -> Batch:
    """The first n digits of a split: pixels ``[n, 1, 28, 28]`` in [0, 1] and labels."""
    data = MNIST(root, train=train)
    return data.data[:n].unsqueeze(1).float() / 255, data.targets[:n]


def cnn(width: int = 8) -> nn.Sequential:
    """Two strided convolutions with BatchNorm, dropout, one linear layer: 10 logits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * width * 49, 10),
    )


def mlp() -> nn.Sequential:
    """One hidden layer of 64 units: 10 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def fit(model: nn.Module, data: Batch, epochs: int, attack: Attack | None = None, lr: float = 5e-3) -> nn.Module:
    """Train with Adam and batches of 128, on adversarial examples if there is an attack."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    x, y = data
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), 128):
            batch = x[rows] if attack is None else attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            classification_loss(model(batch), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, data: Batch, attack: Attack | None = None, batch_size: int = 500) -> float:
    """Percentage of correct predictions, clean or under attack."""
    hits = 0
    for x, y in zip(torch.split(data[0], batch_size), torch.split(data[1], batch_size), strict=True):
        seen = x if attack is None else attack(model, x, y)
        with evaluating(model), torch.no_grad():
            hits += int((predicted_labels(model(seen)) == y).sum())
    return 100 * hits / len(data[0])


def seed_everything(seed: int) -> None:
    """Seed torch and Python, and use one thread, so that the figures can be had again."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, this library and others that are installed."""
    found = {"python": platform.python_version()}
    for name in ("lsa-lightning", "torch", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(path: Path, result: Mapping[str, Any], *packages: str) -> None:
    """The result with versions and device, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"device": "cpu", "versions": versions(*packages), **result}, indent=2) + "\n")
