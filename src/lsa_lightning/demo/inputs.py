"""What people give the page, as a model's input: a place in a plane, or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lsa_lightning.attacks import Bounds

_GREY = (0.299, 0.587, 0.114)
"""What red, green and blue weigh in a grey value, as Pillow has it."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A part of the plane, drawn as a square of pixels.

    Attributes:
        points: points of the data that are drawn in it, ``[N, 2]``.
        labels: their classes ``[N]``.
        pixels: pixels of each side.
    """

    points: Tensor
    labels: Tensor
    pixels: int = 560

    @property
    def low(self) -> Tensor:
        """The lower left corner ``[2]``."""
        return self.points.amin(dim=0) - 0.3

    @property
    def high(self) -> Tensor:
        """The upper right corner ``[2]``."""
        return self.points.amax(dim=0) + 0.3

    def at(self, column: float, row: float) -> Tensor:
        """The input ``[1, 2]`` at a pixel, counted from the upper left corner.

        Example:
            >>> plane = Plane(torch.tensor([[-0.7, -0.7], [0.7, 0.7]]), torch.tensor([0, 1]), pixels=101)
            >>> plane.at(50, 0)
            tensor([[0., 1.]])
        """
        across = torch.tensor([column, self.pixels - 1 - row]) / (self.pixels - 1)
        return (self.low + across * (self.high - self.low)).unsqueeze(0)

    def grid(self, n: int) -> Tensor:
        """``n`` times ``n`` inputs ``[n * n, 2]``: row by row from below, each from left to right."""
        columns, rows = (torch.linspace(float(self.low[i]), float(self.high[i]), n) for i in (0, 1))
        return torch.cartesian_prod(rows, columns).flip(1)


@dataclass(frozen=True)
class Canvas:
    """Pictures, of whatever size, as inputs of one shape.

    Attributes:
        shape: (channels, height, width); channels 1 or 3.
        bounds: pixel values of black and white.
    """

    shape: tuple[int, ...]
    bounds: Bounds = (0.0, 1.0)

    def read(self, picture: Any) -> Tensor:
        """The input ``[1, C, H, W]``.

        Args:
            picture: uint8 ``[height, width, 3 or 4]``; what is behind transparent pixels counts.

        Raises:
            ValueError: if there is none.

        Example:
            >>> Canvas((1, 28, 28)).read(np.full((56, 56, 3), 255, dtype=np.uint8)).unique()
            tensor([1.])
        """
        if picture is None:
            msg = "expected a picture, got none: draw one, or upload a file"
            raise ValueError(msg)
        channels, *size = self.shape
        colours = torch.from_numpy(np.array(picture)[..., :3]).float().movedim(-1, 0).unsqueeze(0) / 255
        if channels == 1:
            colours = (colours * torch.tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        values = F.interpolate(colours, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        low, high = self.bounds or (0.0, 1.0)
        return low + values * (high - low)
