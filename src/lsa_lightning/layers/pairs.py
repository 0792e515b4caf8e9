"""The comparison of two batches, layer by layer, while the network runs on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lsa_lightning.layers.calls import NOT_TAKEN, CallSite
from lsa_lightning.layers.outputs import check_softmax_once
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.measures import ComparisonMeasure, RelativeError
from lsa_lightning.utils.isolation import RandomState, RandomStateAtForward, preserved_random_state, scratch_buffers
from lsa_lightning.utils.outputs import read_logits

Keep: TypeAlias = Callable[[str, Tensor], Tensor]
"""``(layer, representation) -> what is kept of it``."""

_FEW = 4
"""Samples on which it is tried out whether samples are independent."""

_ROUNDING = 1e-3
"""How far the same relative values may differ for the size of the batch alone, TF32 included."""

_CACHED = 2**23
"""Bytes that a layer returns for a part of the pairs at most, on a CPU, whose caches then hold them."""


class BatchComparison(ABC):
    """Compares what layers make of two batches, ``model`` being in eval mode and gradients off.

    Args:
        model: the network.
        layers: the layers, and where each is read.
        measure: compares two representations of a layer.
        read: reads the logits out of what the model returns.

    Raises:
        ValueError: if a layer and the measure would take the softmax twice.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, CallSite],
        measure: ComparisonMeasure,
        read: Callable[[Any], Tensor] = read_logits,
    ) -> None:
        check_softmax_once(model, layers, measure)
        self.model = model
        self.layers = dict(layers)
        self.measure = measure
        self.read = read

    @abstractmethod
    def errors(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The values of all layers, ``[N, L]``."""

    def _kept(self, x: Tensor, keep: Keep) -> dict[str, Tensor]:
        """What is kept of each layer's representation of ``x``, which the model may change."""
        options: dict[str, Any] = {"sites": self.layers, "read": self.read, "keep": keep}
        probe = LayerProbe(self.model, self.layers, len(x), stop_early=True, **options)
        with scratch_buffers(self.model), probe:
            self.model(x)
        return probe.representations

    def _stacked(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([values[name] for name in self.layers], dim=1)


class OneAfterTheOther(BatchComparison):
    """Two passes, of which the second finds the representations of the first: right for every model and measure.

    A model that draws random numbers draws the same in both passes.
    """

    def errors(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The values of all layers, ``[N, L]``."""
        random_state = RandomStateAtForward(self.model, x.device)
        with random_state:
            clean = self._kept(x.clone(), _copy)
        with random_state.replay():
            return self._stacked(self._kept(x_adv.clone(), lambda name, it: self.measure(clean.pop(name), it)))


class SideBySide(BatchComparison):
    """Some clean samples and their partners in one pass, then the next ones: no representation outlives its layer.

    It takes no more memory than a pass on one of the batches, and as much work as two. Only for models and measures to
    which it makes no difference what else is in a batch, see :meth:`suits`.
    """

    _largest = 0
    """Bytes of a sample's largest representation, once :meth:`suits` has seen them."""

    def errors(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The values of all layers, ``[N, L]``."""
        part = -(-len(x) // 2)
        if x.device.type == "cpu" and self._largest:
            part = min(part, max(1, _CACHED // (2 * self._largest)))
        pairs = zip(torch.split(x, part), torch.split(x_adv, part), strict=True)
        return torch.cat([self._errors_of(torch.cat(pair)) for pair in pairs])

    def _errors_of(self, both: Tensor) -> Tensor:
        def compare(_: str, representation: Tensor) -> Tensor:
            return self.measure(*representation.tensor_split(2))

        return self._stacked(self._kept(both, compare))

    def suits(self, x: Tensor, x_adv: Tensor) -> bool:
        """Whether the measure goes by samples, and so does the model, without random numbers.

        The model runs on a few clean samples beside perturbed ones, and on each of both alone: on 7, 3 and 4 samples,
        which no model cuts alike that mixes groups of neighbours, such as clips or pairs of views.

        Args:
            x: a batch.
            x_adv: its partners.
        """
        if not self.measure.sample_by_sample or len(x) < _FEW:
            return False
        halves = x[: _FEW - 1], x_adv[:_FEW]
        before = RandomState(x.device)
        try:
            both = self._kept(torch.cat(halves), _copy)
            clean, perturbed = (self._kept(half.clone(), _copy) for half in halves)
        except NOT_TAKEN:  # by a model, or a layer, that takes the given batch alone
            return False
        self._largest = max(each.nbytes // len(halves[0]) for each in clean.values())
        return RandomState(x.device) == before and all(
            self._same(both[name], clean[name], perturbed[name]) for name in self.layers
        )

    def _same(self, both: Tensor, clean: Tensor, perturbed: Tensor) -> bool:
        """Whether the representations agree with those of each half alone, and what the measure makes of them."""
        ours, alone = (both[: len(clean)], both[len(clean) :]), (clean, perturbed)
        if not all(_alike(*each) for each in zip(ours, alone, strict=True)):
            return False
        one, other = (self.measure(first, second[: len(first)]) for first, second in (ours, alone))
        return torch.allclose(one, other, rtol=10 * _ROUNDING, atol=_ROUNDING)


def comparison(
    model: nn.Module,
    layers: Mapping[str, CallSite],
    measure: ComparisonMeasure,
    x: Tensor,
    x_adv: Tensor,
    read: Callable[[Any], Tensor] = read_logits,
) -> BatchComparison:
    """The one that suits, and takes least.

    Args:
        model: see :class:`BatchComparison`.
        layers: see :class:`BatchComparison`.
        measure: see :class:`BatchComparison`.
        x: a batch.
        x_adv: its partners.
        read: see :class:`BatchComparison`.
    """
    side_by_side = SideBySide(model, layers, measure, read)
    with preserved_random_state(x.device):  # whichever batch this is tried out on
        if side_by_side.suits(x, x_adv):
            return side_by_side
        _warn_of_own_state(OneAfterTheOther(model, layers, RelativeError(), read), x[:2])
    return OneAfterTheOther(model, layers, measure, read)


def _warn_of_own_state(twice: OneAfterTheOther, few: Tensor) -> None:
    """Say so if the same inputs give something else the next time."""
    try:
        moved = (twice.errors(few, few) > 10 * _ROUNDING).any(0).tolist()  # half precision on a GPU may round otherwise
    except NOT_TAKEN:  # see SideBySide.suits
        return
    if names := [name for name, differs in zip(twice.layers, moved, strict=True) if differs]:
        rank_zero_warn(
            f"{type(twice.model).__name__} gives other values of {names} for the same inputs: it draws random numbers "
            "from a generator of its own, or counts its calls. That is in what the layers' comparison says."
        )


def _copy(_: str, representation: Tensor) -> Tensor:
    return representation.clone()


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.float(), other.float()
    return bool((one - other).norm() <= _ROUNDING * other.norm())
