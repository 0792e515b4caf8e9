"""Looking into the two file formats, so that an error can name the file, what was expected and what was found."""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# What the documentation of pickle says that unpickling a foreign file can raise, and looking into what came out.
_NOT_A_BATCH = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


def check_idx_pair(images: Path, labels: Path, size: tuple[int, int], classes: int) -> None:
    """Check two IDX files, the format of MNIST, for truncation, image size, equal counts and the range of the labels.

    Args:
        images: file of uint8 images.
        labels: file of uint8 labels.
        size: expected (height, width).
        classes: labels are 0..classes-1.

    Raises:
        ValueError: naming the file, what was expected and what it holds.

    Source: http://yann.lecun.com/exdb/mnist
    """
    count, *got = _idx_shape(images, dimensions=3)
    if tuple(got) != tuple(size):
        msg = f"expected {images} to hold images of {_times(size)} pixels, got {_times(got)}"
        raise ValueError(msg)
    (label_count,) = _idx_shape(labels, dimensions=1)
    if label_count != count or count == 0:
        msg = f"expected {labels} to hold one label per image of {images.name}, {count} >= 1, got {label_count}"
        raise ValueError(msg)
    _check_range(labels, np.frombuffer(labels.read_bytes(), np.uint8, offset=8), classes)


def check_cifar_batch(path: Path, pixels: int, classes: int) -> None:
    """Check a file of pickled CIFAR images: whole, uint8, the number of pixels, and the range of the labels.

    Unpickling runs code that the file holds; only for files whose data set class waives the checksums.

    Args:
        path: the file.
        pixels: expected values per image, C * H * W.
        classes: labels are 0..classes-1.

    Raises:
        ValueError: naming the file, what was expected and what it holds.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    try:
        with path.open("rb") as file:
            entry = pickle.load(file, encoding="latin1")
        data, labels = np.asarray(entry["data"]), np.asarray(_labels_of(entry), dtype=np.int64)
    except _NOT_A_BATCH as error:
        msg = f"expected {path} to be a CIFAR batch, a pickled dict of data and labels, got: {error!r}"
        raise ValueError(msg) from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != pixels or len(data) == 0:
        msg = f"expected {path} to hold uint8 data of shape [N, {pixels}], got {data.dtype} {list(data.shape)}"
        raise ValueError(msg)
    if labels.shape != (len(data),):
        msg = f"expected {path} to hold {len(data)} labels, one per image, got shape {list(labels.shape)}"
        raise ValueError(msg)
    _check_range(path, labels, classes)


def _idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """The sizes in the header of an IDX file of uint8 values."""
    with path.open("rb") as file:
        magic, sizes = file.read(4), file.read(4 * dimensions)
    expected = bytes([0, 0, 8, dimensions])
    if magic != expected or len(sizes) != 4 * dimensions:
        msg = (
            f"expected {path} to be an IDX file of uint8 values with {dimensions} dimensions, beginning with "
            f"{expected.hex(' ')}, got {magic.hex(' ') or 'an empty file'}"
        )
        raise ValueError(msg)
    shape = struct.unpack(f">{dimensions}I", sizes)
    size, got = 4 + 4 * dimensions + math.prod(shape), path.stat().st_size
    if got != size:
        msg = f"expected {path} to have {size} bytes, as its header says, got {got}: truncated or damaged"
        raise ValueError(msg)
    return shape


def _labels_of(entry: Any) -> Any:
    return entry["labels"] if "labels" in entry else entry["fine_labels"]


def _check_range(path: Path, labels: Any, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        msg = f"expected {path} to hold labels in 0..{classes - 1}, got {low}..{high}"
        raise ValueError(msg)


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
