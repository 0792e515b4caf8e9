"""The paper's model C."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lsa_lightning.models.initialisation import he_initialise
from lsa_lightning.utils.checks import integer, refuse, sequence

_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""How many of them each stage of VGG-19 has; a pooling ends each stage."""


class VGG19(nn.Sequential):
    """Model C (CIFAR-10): VGG-19 with batch norm and one linear layer on its 512 features.

    Modules ``conv1, norm1, act1, ..., pool1, ..., average, flatten, head``. The last feature map (1 x 1 for images of
    32 x 32) is averaged, so that larger images work too.

    Args:
        in_channels: channels of the images, >= 1; height and width must be >= 32.
        num_classes: number of logits, >= 1.
        widths: channels of each of the five stages, each >= 1.

    Raises:
        ValueError: if a size is smaller than 1, or if there are not five widths.

    Source: Simonyan and Zisserman 2015, arXiv 1409.1556; arXiv 2202.02626, Table 1.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, widths: Sequence[int] = (64, 128, 256, 512, 512)
    ) -> None:
        in_channels = integer(self, "in_channels", in_channels, low=1)
        num_classes = integer(self, "num_classes", num_classes, low=1)
        widths = sequence(self, "widths", widths, integer, low=1)
        if len(widths) != len(_CONVOLUTIONS):
            refuse(self, "widths", f"{len(_CONVOLUTIONS)} numbers, one for each stage", widths)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width_in, i = in_channels, 0
        for stage, (width, convolutions) in enumerate(zip(widths, _CONVOLUTIONS, strict=True), start=1):
            for _ in range(convolutions):
                i += 1
                layers[f"conv{i}"] = nn.Conv2d(width_in, width, 3, padding=1)
                layers[f"norm{i}"] = nn.BatchNorm2d(width)
                layers[f"act{i}"] = nn.ReLU(inplace=True)
                width_in = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["head"] = nn.Linear(width_in, num_classes)
        super().__init__(layers)
        he_initialise(self)
