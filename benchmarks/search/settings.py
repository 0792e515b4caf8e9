"""The settings with room: little data, where a base is far below what is possible."""

from __future__ import annotations

from functools import partial

import torch
from benchmarks.search.training import Data, Setting
from torch import Tensor

from lsa_lightning import MoonDataModule
from lsa_lightning.models import MLP

MOON_LAYERS = (("learnable",), ("learnable", "logits"), ("act1",), ("act2",), ("act3",), ("logits",))


def moon(size: int, seeds: list[int]) -> Data:
    """``size`` labelled points, 200 to validate, 1,000 to test with, 1,000 without labels; scaled by the labelled."""
    made = []
    for seed in seeds:
        module = MoonDataModule(train_size=size, val_size=1200, test_size=1000, seed=seed)
        module.setup()
        (x, y), (x_val, y_val), (x_test, y_test) = (split.tensors for split in module.splits)
        made.append((x, y, x_val[:200], y_val[:200], x_test, y_test, x_val[200:]))
    return _stacked(made)


def digits(size: int, seeds: list[int]) -> Data:
    """scikit-learn's 1,797 digits: 500 to test with, the same for all seeds; ``size`` with labels, 200 to validate, and
    the rest without labels are drawn anew from the others."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    kept_away = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, others = kept_away[:500], kept_away[500:]
    made = []
    for seed in seeds:
        order = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))]
        val, train, pool = order[:200], order[200 : 200 + size], order[200 + size :]
        own = [part for rows in (train, val, test) for part in (images[rows], labels[rows])]
        made.append((*own, images[pool]))
    return _stacked(made)


def _stacked(made: list[tuple[Tensor, ...]]) -> Data:
    x, y, x_val, y_val, x_test, y_test, pool = (torch.stack(part) for part in zip(*made, strict=True))
    return Data((x, y), (x_val, y_val), (x_test, y_test), pool)


def _moon(size: int) -> Setting:
    return Setting(
        f"moon-{size}",
        partial(moon, size),
        MLP,
        eps=0.3,
        radii=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        spread=(0.1, 0.2, 0.3, 0.4, 0.5),
        bounds=None,
        steps=400,
        batch=128,
        layers=MOON_LAYERS,
        seeds=range(40),
    )


def _digits(size: int) -> Setting:
    return Setting(
        f"digits-{size}",
        partial(digits, size),
        partial(MLP, 64, out_features=10),
        eps=0.2,
        radii=(0.2,),
        spread=(0.1, 0.15, 0.2, 0.25, 0.3),
        bounds=(0.0, 1.0),
        steps=400,
        batch=100,
        layers=MOON_LAYERS,
    )


SETTINGS = {setting.name: setting for setting in (*map(_moon, (30, 60, 120)), *map(_digits, (100, 200, 500)))}
