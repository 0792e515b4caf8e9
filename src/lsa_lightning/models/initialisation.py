"""Initial weights of convolutional networks."""

from __future__ import annotations

from torch import nn


def he_initialise(model: nn.Module) -> None:
    """Convolutions with normal weights of variance ``2 / fan_out`` and biases 0; other layers stay as they are.

    Source: He et al. 2015, arXiv 1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
