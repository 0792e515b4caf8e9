"""Input normalisation as the first layer of a model, so that attacks work in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lsa_lightning.utils.checks import integer, number, or_none, refuse, sequence


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean: one value per channel (dimension 1 of the input).
        std: the same, each > 0.
        channels: what the next layer takes, >= 1: of grey images, the one channel is repeated so often. None: as many
            as there are.

    Raises:
        ValueError: if the lengths differ, a std is not positive, or there are several channels, but not ``channels``.

    Example:
        >>> Normalize([0.5], [0.5])(torch.ones(1, 1, 2, 2)).unique()
        tensor([1.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> None:
        super().__init__()
        mean, std = sequence(self, "mean", mean, number), sequence(self, "std", std, number, above=0)
        if len(mean) != len(std):
            refuse(self, "std", f"of the length of mean, {len(mean)}", std)
        self.channels = or_none(integer, self, "channels", channels, low=1)
        if len(mean) not in (1, self.channels or len(mean)):
            refuse(self, "mean", f"one value, or one for each of {self.channels} channels", mean)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised input of the same shape, but for the repeated channel.

        Raises:
            ValueError: if the number of channels differs.
        """
        if x.shape[1] != len(self.mean):
            msg = f"expected inputs with {len(self.mean)} channels in dimension 1, got {tuple(x.shape)}"
            raise ValueError(msg)
        shape = (1, -1, *[1] * (x.ndim - 2))
        normalised = (x - self.mean.view(shape)) / self.std.view(shape)
        if self.channels in (None, len(self.mean)):
            return normalised
        return normalised.expand(-1, self.channels, *[-1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        """The constants, for printing."""
        constants = f"mean={self.mean.tolist()}, std={self.std.tolist()}"
        return constants if self.channels is None else f"{constants}, channels={self.channels}"
