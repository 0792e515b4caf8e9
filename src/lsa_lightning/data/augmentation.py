"""Augmentation of whole batches on the device where they lie.

An augmentation of your own is one class: subclass :class:`Augmentation`, set ``numbers`` and write ``__call__``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lsa_lightning.utils.checks import flag, integer
from lsa_lightning.utils.devices import sent


class Augmentation(ABC):
    """A random change of training images, written as a pure function of the images and of random numbers.

    The numbers that an image gets depend on the seed, the epoch and the image alone, so that any number of ranks and
    workers makes the same batches.

    Attributes:
        numbers: how many random numbers an image needs.
    """

    numbers: int

    @abstractmethod
    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 ``[N, C, H, W]`` in 0..255, on any device.
            uniform: float32 ``[N, numbers]`` in [0, 1), on the CPU.

        Returns:
            Images of the same shape, dtype and device.
        """


class CropFlip(Augmentation):
    """Zero-pad, crop back to the old size at a random place, and mirror every other image.

    Args:
        padding: pixels >= 0 added on each side.
        flip: mirror left and right with probability 1/2.

    Raises:
        ValueError: if ``padding`` is negative.

    Example:
        >>> CropFlip()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.rand(2, 3)).shape
        torch.Size([2, 3, 32, 32])
    """

    numbers = 3

    def __init__(self, padding: int = 4, *, flip: bool = True) -> None:
        self.padding = integer(self, "padding", padding, low=0)
        self.flip = flag(self, "flip", flip)

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """See :meth:`Augmentation.__call__`; the numbers are top, left and mirrored."""
        top, left = (uniform[:, :2] * (2 * self.padding + 1)).long().unbind(1)
        mirrored = uniform[:, 2] < (0.5 if self.flip else 0.0)
        return _windows(images, top, left, mirrored, self.padding)

    def __repr__(self) -> str:
        return f"CropFlip(padding={self.padding}, flip={self.flip})"


def _windows(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Windows of the old size at ``top`` and ``left`` of the padded images, some of them mirrored (each ``[N]``, CPU).

    A row of a window is a run of pixels in memory, of a padded image or of its mirror image, so that one index_select
    over all runs copies row by row; indexing pixel by pixel takes several times as long.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    line, plane = padded.shape[3], padded[0, 0].numel()
    which = mirrored.nonzero().flatten()
    both = torch.cat([padded, padded.index_select(0, sent(which, images.device)).flip(3)])
    source = torch.arange(n).index_copy(0, which, torch.arange(n, n + len(which)))
    corner = source * channels * plane + top * line + torch.where(mirrored, 2 * padding - left, left)
    planes = torch.arange(channels, device=images.device).view(1, channels, 1) * plane
    lines = torch.arange(height, device=images.device) * line
    starts = sent(corner, images.device).view(n, 1, 1) + planes + lines
    return both.view(-1).unfold(0, width, 1).index_select(0, starts.flatten()).view_as(images)
