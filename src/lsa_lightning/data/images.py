"""Data sets of images: a uint8 tensor that is read a batch at a time, or one image after the other with a transform."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.functional import pil_to_tensor

from lsa_lightning.data.augmentation import Augmentation
from lsa_lightning.utils.devices import sent
from lsa_lightning.utils.isolation import preserved_random_state, seed_host_generators
from lsa_lightning.utils.random import Purpose, generator_of, seed_of

Batch = tuple[Tensor, Tensor]
"""Pixels float32 ``[N, C, H, W]`` in [0, 1] and labels int64 ``[N]``."""


class ImageBatches(Dataset[Batch]):
    """A split of images in memory that gathers, augments and converts whole batches.

    Args:
        images: uint8 ``[N, C, H, W]``, on any device: batches come out there.
        labels: int64 ``[N]``, on the same device.
        rows: the M images of this split, int64 ``[M]`` on the CPU.
        augmentation: None, or what changes the images.
        seed: seed of the augmentation >= 0.

    Indices may carry an epoch, see :class:`~lsa_lightning.data.sampling.EpochIndices`; those of a batch, the same one.

    Example:
        >>> white = torch.full((4, 1, 2, 2), 255, dtype=torch.uint8)
        >>> split = ImageBatches(white, torch.arange(4), rows=torch.tensor([3, 1]))
        >>> x, y = split.__getitems__([0, 1])
        >>> x.shape, x.max(), y
        (torch.Size([2, 1, 2, 2]), tensor(1.), tensor([3, 1]))
    """

    def __init__(
        self, images: Tensor, labels: Tensor, *, rows: Tensor, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.images = images
        self.labels = labels
        self.rows = rows
        self.augmentation = augmentation
        self.seed = seed
        self._drawn: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        """One batch, already collated."""
        rows = self.rows[torch.tensor(indices) % len(self)]
        place = sent(rows, self.images.device)
        x = self.images.index_select(0, place)
        if self.augmentation is not None:
            x = self.augmentation(x, self._numbers(self.augmentation, indices[0] // len(self))[rows])
        return x.to(torch.float32).div_(255), self.labels.index_select(0, place)

    def _numbers(self, augmentation: Augmentation, epoch: int) -> Tensor:
        """Random numbers of all N images in ``epoch``; those of one epoch are kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = generator_of(self.seed, Purpose.AUGMENTATION, epoch)
            self._drawn = epoch, torch.rand(len(self.images), augmentation.numbers, generator=generator)
        return self._drawn[1]


class TransformedImages(Dataset[Any]):
    """A split of a data set whose images go through a transform, one by one.

    Args:
        dataset: ``dataset[i]`` is an image and its label.
        rows: the M images of this split, int64 ``[M]``.
        transform: makes a tensor ``[C, H, W]`` in [0, 1] from an image as the data set gives it (PIL in torchvision).
            What it draws from the global generators depends on the seed, the epoch and the image alone.
        seed: the seed.
    """

    def __init__(self, dataset: Any, rows: Tensor, *, transform: Callable[[Any], Tensor], seed: int = 0) -> None:
        self.dataset = dataset
        self.rows = rows.tolist()
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        row = self.rows[index % len(self)]
        worker = get_worker_info() is not None  # whose generators nobody else draws from
        with nullcontext() if worker else preserved_random_state(torch.device("cpu")):
            seed_host_generators(seed_of(self.seed, Purpose.TRANSFORM, index // len(self), row))
            image, label = self.dataset[row]
            return self.transform(image), label


def in_memory(dataset: Any, shape: tuple[int, int, int], classes: int) -> Batch:
    """All images of a torchvision-like data set as uint8 ``[N, C, H, W]``, and its labels as int64 ``[N]``.

    Args:
        dataset: has ``data`` and ``targets`` (or ``labels``) as torchvision's small data sets do; else its items are
            read one by one and must be PIL images with integer labels.
        shape: expected ``(C, H, W)``.
        classes: expected number of classes; labels are 0..classes-1.

    Raises:
        ValueError: if the pixels are not uint8, a size is another, or labels are missing or out of range.
    """
    data, targets = _raw(dataset)
    images = _channels_first(data, shape)
    labels = torch.as_tensor(targets, dtype=torch.int64).flatten()
    if len(labels) != len(images) or len(images) == 0:
        msg = f"expected at least one image and as many labels, got {len(images)} images and {len(labels)} labels"
        raise ValueError(msg)
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        msg = f"expected labels in 0..{classes - 1}, got {low}..{high}"
        raise ValueError(msg)
    return images, labels


def _raw(dataset: Any) -> tuple[Tensor, Any]:
    data = getattr(dataset, "data", None)
    targets = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    if isinstance(data, Tensor | np.ndarray) and targets is not None:
        return torch.as_tensor(data), targets
    images, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    sizes = {image.size for image in images if isinstance(image, Image.Image)}
    if len(sizes) > 1:
        msg = f"expected images of one size, got {sorted(sizes)} (width, height)"
        raise ValueError(msg)
    return torch.stack([pil_to_tensor(image) for image in images]), labels


def _channels_first(data: Tensor, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    if data.ndim == 3:
        data = data.unsqueeze(1)
    elif data.shape[1:] == (height, width, channels):
        data = data.permute(0, 3, 1, 2)
    if data.dtype != torch.uint8 or data.shape[1:] != shape:
        got = f"{data.dtype} of shape {tuple(data.shape[1:])}"
        msg = f"expected uint8 images of shape {tuple(shape)} (channels, height, width), got {got}"
        raise ValueError(msg)
    return data.contiguous()
