"""Residual networks with pre-activation, and PreActResNet-18."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lsa_lightning.models.initialisation import he_initialise
from lsa_lightning.utils.checks import integer, number, sequence


class PreActBlock(nn.Module):
    """``x + conv2(act2(norm2(conv1(act1(norm1(x))))))``; a 1x1 convolution on the shortcut where the shape changes.

    Args:
        width_in: channels of the input.
        width: channels of the output.
        stride: of the first convolution and the shortcut.
        dropout: probability in [0, 1) of dropping a value before the second convolution.
    """

    def __init__(self, width_in: int, width: int, *, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.act1 = nn.ReLU(inplace=True)
        reshapes = stride != 1 or width_in != width
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if reshapes else None
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``[N, width, H / stride, W / stride]``."""
        out = self.act1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(self.dropout(self.act2(self.norm2(self.conv1(out)))))
        total: Tensor = shortcut + out
        return total


class PreActResNet(nn.Module):
    """Convolution, stages of :class:`PreActBlock`, batch norm, ReLU, average, linear.

    Modules ``conv, stage1, stage2, ..., norm, act, pool, head``. Each stage but the first halves height and width.

    Args:
        stem: channels after the first convolution, >= 1.
        widths: channels of each stage, each >= 1.
        blocks: blocks per stage, >= 1.
        dropout: see :class:`PreActBlock`.
        in_channels: channels of the images, >= 1.
        num_classes: number of logits, >= 1.

    Raises:
        ValueError: if a size is smaller than 1 or ``dropout`` is outside [0, 1).

    Source: He et al. 2016, arXiv 1603.05027.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        *,
        blocks: int,
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        sizes = {"stem": stem, "blocks": blocks, "in_channels": in_channels, "num_classes": num_classes}
        stem, blocks, in_channels, num_classes = (integer(self, name, size, low=1) for name, size in sizes.items())
        widths = sequence(self, "widths", widths, integer, low=1)
        dropout = number(self, "dropout", dropout, low=0, below=1)
        self.conv = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.stages: list[str] = []
        for i, (width_in, width) in enumerate(zip([stem, *widths], widths, strict=False), start=1):
            first = PreActBlock(width_in, width, stride=1 if i == 1 else 2, dropout=dropout)
            rest = [PreActBlock(width, width, dropout=dropout) for _ in range(blocks - 1)]
            self.add_module(f"stage{i}", nn.Sequential(first, *rest))
            self.stages.append(f"stage{i}")
        self.norm = nn.BatchNorm2d(widths[-1])
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, num_classes]``."""
        x = self.conv(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(self.pool(self.act(self.norm(x))).flatten(1))
        return logits


class PreActResNet18(PreActResNet):
    """ResNet-18 with pre-activation, as used on CIFAR-10 by much work on adversarial training.

    Args:
        in_channels: channels of the images, >= 1.
        num_classes: number of logits, >= 1.

    Source: He et al. 2016, arXiv 1603.05027.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__(64, (64, 128, 256, 512), blocks=2, in_channels=in_channels, num_classes=num_classes)
