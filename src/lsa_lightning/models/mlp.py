"""Multi-layer perceptrons; the defaults are the paper's model A."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lsa_lightning.models.activations import ELU
from lsa_lightning.utils.checks import function, integer, sequence


class MLP(nn.Sequential):
    """Fully connected layers ``fc1, act1, fc2, act2, ..., head``.

    The defaults are model A (Moon): three hidden layers of 100 units with ELU and one logit.

    Args:
        in_features: number of input values of a sample, >= 1; inputs ``[N, ...]`` are flattened.
        hidden: width of each hidden layer, at least one.
        out_features: number of logits, >= 1; one means a binary classifier.
        activation: makes an activation module.

    Raises:
        ValueError: if a size is smaller than 1 or there is no hidden layer.

    Example:
        >>> import torch
        >>> MLP()(torch.zeros(4, 2)).shape
        torch.Size([4, 1])

    Source: arXiv 2202.02626, Table 1.
    """

    def __init__(
        self,
        in_features: int = 2,
        hidden: Sequence[int] = (100, 100, 100),
        *,
        out_features: int = 1,
        activation: Callable[[], nn.Module] = ELU,
    ) -> None:
        hidden = sequence(self, "hidden", hidden, integer, low=1)
        widths = [integer(self, "in_features", in_features, low=1), *hidden]
        out_features = integer(self, "out_features", out_features, low=1)
        function(self, "activation", activation)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (wide_in, wide_out) in enumerate(zip(widths, hidden, strict=False), start=1):
            layers[f"fc{i}"] = nn.Linear(wide_in, wide_out)
            layers[f"act{i}"] = activation()
        layers["head"] = nn.Linear(widths[-1], out_features)
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, out_features]``."""
        return super().forward(x.flatten(1))  # type: ignore[no-any-return,no-untyped-call]
