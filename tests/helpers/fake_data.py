"""Small image data sets in the real file formats, so that the real reading code runs."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN


def write_idx(path: Path, values: np.ndarray) -> None:
    """An IDX file of uint8 values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, train: int = 64, test: int = 32, name: str = "MNIST", size: int = 28) -> Path:
    """MNIST's four files; the brightness of an image tells its class. Returns their folder."""
    folder = root / name / "raw"
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = np.random.default_rng(count).integers(0, 30, (count, size, size)) + 20 * labels[:, None, None]
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


def write_cifar_batch(path: Path, count: int, classes: int = 10, key: str = "labels") -> None:
    """A file of pickled images; the brightness of an image tells its class."""
    labels = np.arange(count) % classes
    pixels = np.random.default_rng(count).integers(0, 30, (count, 3072)) + (200 * labels // classes)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": pixels.astype(np.uint8), key: labels.tolist()}))


def write_cifar(root: Path, train: int = 20, test: int = 32, base: type[CIFAR10] = CIFAR10) -> type[CIFAR10]:
    """CIFAR's files, ``train`` images in each training file, and the class that knows their checksums.

    The class tests them with torchvision's own code.
    """
    folder, is_100 = root / base.base_folder, issubclass(base, CIFAR100)
    arguments = {"classes": 100, "key": "fine_labels"} if is_100 else {}
    for name, _ in base.train_list:
        write_cifar_batch(folder / name, train, **arguments)
    for name, _ in base.test_list:
        write_cifar_batch(folder / name, test, **arguments)
    (folder / base.meta["filename"]).write_bytes(pickle.dumps({base.meta["key"]: list(range(100 if is_100 else 10))}))

    def with_md5(name: str) -> list[str]:
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    attributes: dict[str, Any] = {
        "train_list": [with_md5(name) for name, _ in base.train_list],
        "test_list": [with_md5(name) for name, _ in base.test_list],
        "meta": {**base.meta, "md5": with_md5(base.meta["filename"])[1]},
    }
    return type("FakeCIFAR", (base,), attributes)


def write_svhn(root: Path, count: int = 32) -> None:
    """SVHN's two files; the digit 0 is stored as 10."""
    labels = np.arange(1, count + 1) % 10 + 1
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    for split in ("train", "test"):
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": labels[:, None]})


def write_every_data_set(root: Path) -> None:
    """A few images of each data set that conf/data names."""
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        write_mnist(root, 12, 8, name)
    write_cifar(root, 4, 8)
    write_cifar(root, 12, 8, CIFAR100)
    write_svhn(root, 12)


class UncheckedCIFAR10(CIFAR10):
    """Reads files whose checksums are others."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        """The names of the classes are not needed."""


class UncheckedCIFAR100(CIFAR100):
    """Reads files whose checksums are others."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        """The names of the classes are not needed."""


class UncheckedSVHN(SVHN):
    """Reads files whose checksums are others."""

    def _check_integrity(self) -> bool:
        return True
