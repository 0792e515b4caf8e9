"""The layer names that are no submodules: what a network returns, and all layers of the default."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from lsa_lightning.functional import log_probabilities
from lsa_lightning.measures import ComparisonMeasure, KLDivergence

OUTPUT = ""
"""The layer name under which a probe captures the output of the model itself."""

LOGITS = "logits"
"""The layer name by which users choose the logits; a submodule of that name comes first."""

PROBABILITIES = "probabilities"
"""The layer name by which users choose the probabilities of the classes; a submodule of that name comes first."""

ALL_LEARNABLE = "learnable"
"""In a list of layers, those that are chosen by default; a submodule of that name comes first."""


def probabilities(logits: Tensor) -> Tensor:
    """The probability of each class, ``[N, C]``, in float32 at least; both classes for one logit.

    Example:
        >>> import torch
        >>> probabilities(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return log_probabilities(logits).exp()


def _same(logits: Tensor) -> Tensor:
    return logits


_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {OUTPUT: _same, LOGITS: _same, PROBABILITIES: probabilities}


def output_view(model: nn.Module, layer: str) -> Callable[[Tensor], Tensor] | None:
    """What makes the representation ``layer`` out of the logits; None if ``layer`` is inside of ``model``.

    Example:
        >>> output_view(nn.Linear(2, 3), "logits") is None, output_view(nn.Linear(2, 3), "act1") is None
        (False, True)
    """
    view = _VIEWS.get(layer)  # first, as this is asked in each step, and modules are many
    return None if view is None or (layer != OUTPUT and _is_submodule(model, layer)) else view


def means_all_learnable(model: nn.Module, layer: str) -> bool:
    """Whether ``layer`` is :data:`ALL_LEARNABLE`, and no submodule."""
    return layer == ALL_LEARNABLE and not _is_submodule(model, layer)


def check_softmax_once(model: nn.Module, layers: Iterable[str], measure: ComparisonMeasure) -> None:
    """Raise a ValueError if ``measure`` would take the softmax of probabilities."""
    if PROBABILITIES in layers and isinstance(measure, KLDivergence) and output_view(model, PROBABILITIES) is not None:
        msg = "expected the layer 'logits' with KLDivergence, which takes the softmax itself, got 'probabilities'"
        raise ValueError(msg)


def _is_submodule(model: nn.Module, layer: str) -> bool:
    return any(name == layer for name, _ in model.named_modules())
