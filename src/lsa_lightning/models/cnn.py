"""The paper's model B."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from lsa_lightning.utils.checks import integer


class CNN(nn.Sequential):
    """Model B (MNIST): three 5x5 convolutions, one hidden layer of 100 units, ReLU; modules ``conv1, act1, ..., head``.

    The convolutions are not padded.

    Args:
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels, >= 20.
        num_classes: number of logits, >= 1.

    Raises:
        ValueError: if a size is too small.

    Example:
        >>> import torch
        >>> CNN()(torch.zeros(4, 1, 28, 28)).shape
        torch.Size([4, 10])

    Source: arXiv 2202.02626, Table 1.
    """

    def __init__(self, in_channels: int = 1, *, image_size: int = 28, num_classes: int = 10) -> None:
        in_channels = integer(self, "in_channels", in_channels, low=1)
        num_classes = integer(self, "num_classes", num_classes, low=1)
        side = ((integer(self, "image_size", image_size, low=20) - 8) // 2 - 4) // 2
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"], layers["act1"] = nn.Conv2d(in_channels, 16, 5), nn.ReLU()
        layers["conv2"], layers["act2"] = nn.Conv2d(16, 32, 5), nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(2)
        layers["conv3"], layers["act3"] = nn.Conv2d(32, 64, 5), nn.ReLU()
        layers["pool3"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc1"], layers["act4"] = nn.Linear(64 * side**2, 100), nn.ReLU()
        layers["head"] = nn.Linear(100, num_classes)
        super().__init__(layers)
