"""The settings with room: little data, where a base is far below what is possible."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.data_throughput import UncheckedCIFAR10
from benchmarks.search.training import Data, Setting
from torch import Tensor

from lsa_lightning import MoonDataModule
from lsa_lightning.data import CropFlip
from lsa_lightning.models import CNN, MLP
from lsa_lightning.models.preact_resnet import PreActResNet
from lsa_lightning.utils.precision import has_bfloat16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Of the settings with images."""

HIDDEN = (("learnable",), ("learnable", "logits"), ("act1",), ("act2",), ("act3",), ("logits",))


def moon(size: int, seeds: list[int]) -> Data:
    """``size`` labelled points, 200 to validate, 1,000 to test with, 1,000 without labels; scaled by the labelled."""
    made: list[tuple[Tensor, ...]] = []
    for seed in seeds:
        module = MoonDataModule(train_size=size, val_size=1200, test_size=1000, seed=seed)
        module.setup()
        (x, y), (x_val, y_val), (x_test, y_test) = (split.tensors for split in module.splits)
        made.append((x, y, x_val[:200], y_val[:200], x_test, y_test, x_val[200:]))
    return _stacked(made)


def digits(size: int, seeds: list[int]) -> Data:
    """``size`` of scikit-learn's 1,797 digits with labels, 200 to validate, the others without labels.

    500 more to test with are the same for all seeds.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    kept_away = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, others = kept_away[:500], kept_away[500:]
    made: list[tuple[Tensor, ...]] = []
    for seed in seeds:
        order = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))]
        val, train, pool = order[:200], order[200 : 200 + size], order[200 + size :]
        own = [part for rows in (train, val, test) for part in (images[rows], labels[rows])]
        made.append((*own, images[pool]))
    return _stacked(made)


def mnist(root: Path, size: int, seeds: list[int]) -> Data:
    """``size`` of the training digits with labels, 500 to validate, of the others at most 8,000 without labels.

    The first 1,000 test digits are the same for all seeds.
    """
    from torchvision.datasets import MNIST

    train, test = (MNIST(str(root), train=part) for part in (True, False))
    return _images(train.data.unsqueeze(1), train.targets, test.data.unsqueeze(1), test.targets, size, seeds)


def cifar10(root: Path, size: int, seeds: list[int]) -> Data:
    """The same of CIFAR-10, whose files need not be the original ones."""
    train, test = (UncheckedCIFAR10(str(root), train=part) for part in (True, False))
    parts = [part for one in (train, test) for part in (torch.tensor(one.data), torch.tensor(one.targets))]
    return _images(parts[0].permute(0, 3, 1, 2), parts[1], parts[2].permute(0, 3, 1, 2), parts[3], size, seeds)


def _images(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, size: int, seeds: list[int]) -> Data:
    made: list[tuple[Tensor, ...]] = []
    for seed in seeds:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        val, train, pool = order[:500], order[500 : 500 + size], order[500 + size :][:8000]
        own = (x[train], y[train], x[val], y[val], x_test[:1000], y_test[:1000], x[pool])
        made.append(tuple((part / 255 if part.ndim > 1 else part).to(DEVICE) for part in own))
    return _stacked(made)


def _stacked(made: list[tuple[Tensor, ...]]) -> Data:
    x, y, x_val, y_val, x_test, y_test, pool = (torch.stack(part) for part in zip(*made, strict=True))
    return Data((x, y), (x_val, y_val), (x_test, y_test), pool)


def moon_setting(size: int, root: Path) -> Setting:
    """Two moons."""
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
        layers=HIDDEN,
        seeds=range(40),
    )


def digits_setting(size: int, root: Path) -> Setting:
    """Digits of 8 x 8 pixels."""
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
        layers=HIDDEN,
    )


def mnist_setting(size: int, root: Path) -> Setting:
    """Model B."""
    return Setting(
        f"mnist-{size}",
        partial(mnist, root, size),
        CNN,
        eps=0.3,
        radii=(0.3,),
        spread=(0.2, 0.25, 0.3, 0.35),
        bounds=(0.0, 1.0),
        steps=600,
        batch=100,
        layers=(("learnable",), ("learnable", "logits"), ("act1",), ("act4",), ("logits",)),
        lrs=(0.0005, 0.001, 0.002),
        warmup=0.3,
        first=range(1000, 1002),
        more=range(1002, 1004),
        kept=2,
        seeds=range(5),
        device=DEVICE,
    )


def cifar_setting(size: int, root: Path) -> Setting:
    """A PreActResNet-18 of a quarter of the width."""
    on_cpu = DEVICE == "cpu"
    return Setting(
        f"cifar-{size}",
        partial(cifar10, root, size),
        partial(PreActResNet, 16, (16, 32, 64, 128), blocks=2),
        eps=8 / 255,
        radii=(8 / 255,),
        spread=(6 / 255, 8 / 255, 10 / 255),
        bounds=(0.0, 1.0),
        steps=800,
        batch=100,
        layers=(("logits",), ("act",), ("learnable",), ("stage1.0.act1",)),
        lrs=(0.001, 0.003),
        augmentation=CropFlip(),
        first=range(1000, 1001),
        more=range(0),
        seeds=range(3),
        device=DEVICE,
        together=1 if on_cpu else 3,
        layout=torch.channels_last if on_cpu else torch.preserve_format,  # a CPU takes 0.8 of the time
        quick=on_cpu and has_bfloat16(torch.device(DEVICE)),
    )


SETTINGS: dict[str, Callable[[Path], Setting]] = {
    **{f"moon-{size}": partial(moon_setting, size) for size in (30, 60, 120)},
    **{f"digits-{size}": partial(digits_setting, size) for size in (100, 200, 500)},
    "mnist-500": partial(mnist_setting, 500),
    "cifar-2000": partial(cifar_setting, 2000),
}
