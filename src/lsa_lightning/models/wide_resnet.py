"""The paper's model D."""

from __future__ import annotations

from lsa_lightning.models.preact_resnet import PreActResNet
from lsa_lightning.utils.checks import integer, refuse


class WideResNet(PreActResNet):
    """Wide residual network; the defaults are model D (CIFAR-10), WideResNet-28-10.

    With the three 1x1 convolutions on shortcuts it has ``depth + 1`` learnable layers, the classifier included: 29.

    Args:
        depth: 6 n + 4 with n >= 1 blocks in each of the three stages.
        width: factor >= 1 on the channels 16, 32 and 64 of the stages.
        dropout: probability in [0, 1) of dropping a value between the two convolutions of a block.
        in_channels: channels of the images, >= 1.
        num_classes: number of logits, >= 1.

    Raises:
        ValueError: if ``depth`` is no such number, a size is smaller than 1, or ``dropout`` is outside [0, 1).

    Example:
        >>> import torch
        >>> WideResNet(depth=10, width=1)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146.
    """

    def __init__(
        self, depth: int = 28, width: int = 10, *, dropout: float = 0.0, in_channels: int = 3, num_classes: int = 10
    ) -> None:
        if integer(self, "depth", depth, low=10) % 6 != 4:
            refuse(self, "depth", "6 n + 4 with n >= 1 (10, 16, 22, 28, ...)", depth)
        widths = [integer(self, "width", width, low=1) * channels for channels in (16, 32, 64)]
        blocks = (depth - 4) // 6
        super().__init__(16, widths, blocks=blocks, dropout=dropout, in_channels=in_channels, num_classes=num_classes)
