"""Input normalisation as the first layer of a model, so that attacks work in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lsa_lightning.utils.checks import number, refuse, sequence


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean: one value per channel (dimension 1 of the input).
        std: the same, each > 0.

    Raises:
        ValueError: if the lengths differ or a std is not positive.

    Example:
        >>> Normalize([0.5], [0.5])(torch.ones(1, 1, 2, 2)).unique()
        tensor([1.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean, std = sequence(self, "mean", mean, number), sequence(self, "std", std, number, above=0)
        if len(mean) != len(std):
            refuse(self, "std", f"of the length of mean, {len(mean)}", std)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised input of the same shape.

        Raises:
            ValueError: if the number of channels differs.
        """
        if x.shape[1] != len(self.mean):
            msg = f"expected inputs with {len(self.mean)} channels in dimension 1, got {tuple(x.shape)}"
            raise ValueError(msg)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        """The constants, for printing."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"
