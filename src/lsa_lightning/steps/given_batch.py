"""The batch that a step runs on, by which its own inputs are told from others that it gives the model."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import _TransferableDataType
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lsa_lightning.steps.model_call import Lines, ModelCall, Place
from lsa_lightning.utils.batch import tensors_in


class GivenBatch:
    """The batch that a step runs on, to tell what it gives the model.

    A call is known by its place: the line of code that makes it, with those that lead there from the step, and how many
    calls they have made before in the step.

    Args:
        batch: the batch.
        x: its inputs, which need not be in it.
        asides: of calls of the model, by their place, whether they have nothing to do with x, see
            :func:`~lsa_lightning.steps.first_look.calls_aside`.

    Attributes:
        asides: those.
        latest: place of the latest call, None where the batch holds nothing else that could be an input.
    """

    def __init__(self, batch: Any, x: Tensor, asides: Mapping[Place, bool] | None = None) -> None:
        self.x = x
        self.asides = asides or {}
        self.latest: Place | None = None
        self._made: Counter[Lines] = Counter()
        self._version = version(x)
        tensors = tensors_in(batch)
        own = any(each is x for each in tensors)  # else batch_fn made it of one of them
        self._beside = [each for each in tensors if _is_input(each) and not same_place(each, x)]
        self._others = self._beside if own else []

    @property
    def has_others(self) -> bool:
        """Whether another tensor of the batch might be given to the model, as inputs without labels."""
        return bool(self._others)

    def of_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
        """As :meth:`call`, of a call of the model itself, each of which is asked about once, in their order."""
        call = self.call(args, kwargs)
        if not self.has_others:
            return call
        lines = _lines_of_step()
        self.latest = lines, self._made[lines]
        self._made[lines] += 1
        return None if call is None else replace(call, place=self.latest)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
        """The call whose input is x of the batch, or the floating tensor with a row per sample that is most like it.

        That is, in this order, x itself, a view of it, one of its shape, with as many numbers, with as many dimensions,
        and any other; of several that are alike, the first. Other tensors of the batch, and their views, come last.
        None where it has none; it has none either where it is given an ``x`` of integers.
        """
        inputs = [each for each in tensors_in((args, kwargs)) if same_place(each, self.x) or _could_be(each, self.x)]
        inputs.sort(key=self.unlike)
        if not inputs or not inputs[0].is_floating_point():
            return None
        unlike = [self.unlike(each) for each in inputs[:2]]
        guessed = len(inputs) > 1 and unlike[0] == unlike[1] and all(unlike[0][1:])
        return ModelCall(args, dict(kwargs), inputs[0], guessed)

    def unlike(self, tensor: Tensor) -> tuple[bool, ...]:
        """How little a tensor that the model is given looks like x; what sorts first looks most like it."""
        mine = _is_view(tensor, self.x)
        other = not mine and any(_is_view(tensor, each) for each in self._beside)
        sizes = tensor.shape == self.x.shape, tensor.numel() == self.x.numel(), tensor.ndim == self.x.ndim
        alike = same_place(tensor, self.x), mine, *sizes
        return other, *(not each for each in alike)

    def is_given(self, call: ModelCall) -> bool:
        """Whether a call is given x as it was, and nothing else; only of a copy the numbers are looked at."""
        same = same_place(call.x, self.x)
        if not call.is_plain or (same and self._version != version(self.x)):
            return False
        return same or equal(call.x, self.x)

    def is_aside(self, call: ModelCall) -> bool:
        """Whether a call has nothing to do with x: it is given another tensor of the batch, as it is or changed."""
        if self.is_other(call.x) or _is_view(call.x, self.x):
            return self.is_other(call.x)
        return call.place is not None and self.asides.get(call.place, False)

    def knows(self, call: ModelCall) -> bool:
        """Whether :meth:`is_aside` is sure."""
        as_it_is = not self.has_others or self.is_other(call.x) or _is_view(call.x, self.x)
        return as_it_is or call.place in self.asides

    @property
    def has_shifted(self) -> bool:
        """Whether a line that is known to give the model x and other inputs, in turn, has made more or fewer calls."""
        for lines, number in self._made.items():
            known = [aside for (place, _), aside in self.asides.items() if place == lines]
            if len(set(known)) > 1 and number != len(known):
                return True
        return False

    def is_other(self, tensor: Tensor) -> bool:
        """Whether it is another tensor of the batch, as it is."""
        return any(same_place(tensor, other) for other in self._others)


def _lines_of_step() -> Lines:
    """Where the code of a step is that calls the model now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and _is_ours(frame):  # the hook that asks
        frame = frame.f_back
    lines = []
    while frame is not None and not _is_ours(frame):
        lines.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(lines)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("lsa_lightning.steps.")


def version(tensor: Tensor) -> int | None:
    """How often it was written to; inference tensors do not count."""
    return None if tensor.is_inference() else tensor._version


def input_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first argument that may be an input, of whatever samples."""
    return next(filter(_is_input, tensors_in((args, kwargs))), None)


def _is_input(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1


def _could_be(tensor: Tensor, x: Tensor) -> bool:
    """Whether a tensor may be the input of as many samples as ``x`` has."""
    return _is_input(tensor) and len(tensor) == len(x)


def same_place(tensor: Tensor, other: Tensor) -> bool:
    """Whether both are the same numbers in memory."""
    return tensor is other or _place(tensor) == _place(other)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:  # sparse ones have no such place
        return (id(tensor),)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _is_view(tensor: Tensor, other: Tensor) -> bool:
    """Whether ``tensor`` lies within the memory of ``other``."""
    if not tensor.layout == other.layout == torch.strided:  # sparse ones have no such place
        return tensor is other
    (first, last), (begin, end) = _extent(tensor), _extent(other)
    return begin <= first and last <= end


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first number and of what follows the last one."""
    begin, steps = tensor.data_ptr(), zip(tensor.shape, tensor.stride(), strict=True)
    return begin, begin + tensor.element_size() * (1 + sum((size - 1) * stride for size, stride in steps))


def copied_batch(batch: Any, x: Tensor) -> tuple[Any, Tensor]:
    """A copy of the batch, which a step may write to, and of x, which is in it where x is in the batch.

    Of an object of a class of one's own, which Lightning takes for a batch if it has a method ``to``, too.
    """
    own = x.clone()

    def copied(part: Any) -> Any:
        if isinstance(part, Tensor):
            return own if part is x else part.clone()
        try:
            return copy.deepcopy(part, {id(x): own})
        except Exception:  # noqa: BLE001  # it holds what has no copy, such as a lock, or a tensor with a graph
            twin = copy.copy(part)
            tensors = {
                name: value for name, value in getattr(part, "__dict__", {}).items() if isinstance(value, Tensor)
            }
            for name, tensor in tensors.items():
                vars(twin)[name] = copied(tensor)
            return twin

    kinds, known = (Tensor, _TransferableDataType), (Mapping, tuple, list)
    return apply_to_collection(batch, kinds, copied, wrong_dtype=known), own


def equal(x: Tensor, other: Tensor | None) -> bool:
    """Whether both are there, of one type and shape, and the same numbers."""
    return other is not None and x.dtype == other.dtype and x.shape == other.shape and bool((x == other).all())
