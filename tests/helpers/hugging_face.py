"""What docs/own_data_and_model.md uses of ``datasets`` and ``transformers``, for where they are not installed.

The same names, arguments and results as theirs; the data are drawn, and the network is small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import nn


class Images:
    """A ``datasets.Dataset`` of images and labels."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def train_test_split(self, test_size: float, seed: int) -> dict[str, Images]:
        cut = len(self.rows) - round(test_size * len(self.rows))
        return {"train": Images(self.rows[:cut]), "test": Images(self.rows[cut:])}


def load_dataset(path: str, *, split: str) -> Images:
    """As many images of ten classes for every name."""
    pixels = np.random.default_rng(len(split)).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    return Images([{"image": Image.fromarray(image), "label": i % 10} for i, image in enumerate(pixels)])


class ResNetConfig:
    """Keeps what it is given."""

    def __init__(
        self, *, num_labels: int, embedding_size: int, hidden_sizes: list[int], depths: list[int], layer_type: str
    ) -> None:
        self.num_labels = num_labels
        self.hidden_sizes = hidden_sizes


class ResNetForImageClassification(nn.Module):
    """A convolution of each width in the config, and a classifier."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = [3, *config.hidden_sizes]
        stages = [nn.Sequential(nn.Conv2d(*pair, 3, stride=2), nn.ReLU()) for pair in pairwise(widths)]
        self.resnet = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], config.num_labels))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.classifier(self.resnet(pixel_values)))


@contextmanager
def stand_ins() -> Iterator[None]:
    """Inside, ``datasets`` and ``transformers`` can be imported. ``load_dataset`` reads nothing from the net."""
    datasets = ModuleType("datasets")
    datasets.load_dataset = load_dataset  # type: ignore[attr-defined]
    modules = {"datasets": datasets}
    if find_spec("transformers") is None:
        transformers = ModuleType("transformers")
        transformers.ResNetConfig = ResNetConfig  # type: ignore[attr-defined]
        transformers.ResNetForImageClassification = ResNetForImageClassification  # type: ignore[attr-defined]
        modules["transformers"] = transformers
    with patch.dict(sys.modules, modules):
        yield
