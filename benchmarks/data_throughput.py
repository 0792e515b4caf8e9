"""Images per second of the DataModules against a plain torchvision DataLoader with the same workers.

    python benchmarks/data_throughput.py [--root FOLDER] [--workers 2] [--rounds 5] [--threads 1] [--output FILE]

In each round the plain loader, the DataModule's and its cached one (``cache=True``) each give one epoch of training
images, one after the other, so that whatever else the machine does disturbs all three alike; ratios are taken within a
round. Without --root, random images stand in for MNIST and CIFAR-10. Re-encoded CIFAR-10 files, whose checksums are
others, are read too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10, MNIST

from lsa_lightning import CIFAR10DataModule, MNISTDataModule
from lsa_lightning.data import ImageDataModule

CROP_FLIP = (transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip())


class UncheckedCIFAR10(CIFAR10):  # type: ignore[misc]
    """CIFAR-10 whose files may have other checksums, such as re-encoded ones."""

    def _check_integrity(self) -> bool:
        return True


class RandomImages:
    """10,000 random images in torchvision's manner."""

    shape: tuple[int, ...]

    def __init__(self, root: Path, train: bool = True, transform: Callable[[Any], Any] | None = None) -> None:
        self.data = np.random.default_rng(0).integers(0, 256, (10_000, *self.shape), dtype=np.uint8)
        self.targets = [i % 10 for i in range(10_000)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return self.transform(image) if self.transform else image, self.targets[index]


class RandomDigits(RandomImages):
    """As MNIST."""

    shape = (28, 28)


class RandomPhotographs(RandomImages):
    """As CIFAR-10."""

    shape = (32, 32, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch in the main process")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_throughput.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    digits, photographs = (RandomDigits, RandomPhotographs) if args.root is None else (MNIST, UncheckedCIFAR10)
    results: dict[str, Any] = {"workers": args.workers, "threads": args.threads, "synthetic": args.root is None}
    results["mnist"] = compare(MNISTDataModule, digits, args, ())
    results["cifar10"] = compare(CIFAR10DataModule, photographs, args, CROP_FLIP)
    args.output.write_text(json.dumps(results, indent=2) + "\n")


def compare(
    module: type[ImageDataModule], dataset_cls: Any, args: argparse.Namespace, augmentation: tuple[Any, ...]
) -> dict[str, Any]:
    """Rates and ratios of one data set."""
    common = {"dataset_cls": dataset_cls, "num_workers": args.workers, "download": False}
    loaders = {
        "plain": plain_loader(dataset_cls, args, augmentation),
        "module": training_loader(module(args.root or "unused", **common)),
        "cached": training_loader(module(args.root or "unused", cache=True, **common)),
    }
    for loader in loaders.values():
        rate(loader)  # workers start, memory is touched
    rounds = [{name: rate(loader) for name, loader in loaders.items()} for _ in range(args.rounds)]
    result = summarise(rounds)
    print(f"{module.__name__}: {json.dumps(result)}", flush=True)
    return result


def plain_loader(dataset_cls: Any, args: argparse.Namespace, augmentation: tuple[Any, ...]) -> DataLoader[Any]:
    """What a torchvision tutorial writes, with 8,000 images."""
    transform = transforms.Compose([*augmentation, transforms.ToTensor()])
    dataset = Subset(dataset_cls(args.root, train=True, transform=transform), range(8000))
    workers = args.workers
    return DataLoader(dataset, 128, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def training_loader(data: ImageDataModule) -> DataLoader[Any]:
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def rate(loader: DataLoader[Any]) -> float:
    """Images per second over one epoch."""
    started = time.perf_counter()
    images = sum(len(x) for x, _ in loader)
    return images / (time.perf_counter() - started)


def summarise(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the rates; median and smallest of the ratios to the plain loader."""
    summary: dict[str, Any] = {
        f"{name}_images_per_second": round(statistics.median(r[name] for r in rounds)) for name in rounds[0]
    }
    for name in ("module", "cached"):
        ratios = [r[name] / r["plain"] for r in rounds]
        summary[f"{name}_ratio_median"] = round(statistics.median(ratios), 2)
        summary[f"{name}_ratio_smallest"] = round(min(ratios), 2)
    return summary


if __name__ == "__main__":
    main()
