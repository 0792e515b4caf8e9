"""Reading (x, y) out of a batch, and putting a perturbed x back in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

BatchFn: TypeAlias = Callable[[Any], tuple[Tensor, Tensor]]


_INPUT_KEYS = ("image", "images", "img", "pixel_values", "input", "inputs", "data", "x")


_LABEL_KEYS = ("label", "labels", "target", "targets", "y")


__all__ = [
    "BatchFn",
    "WholeBatchError",
    "check_samples",
    "describe",
    "first_samples",
    "move_data_to_device",
    "part_of_batch",
    "read_batch",
    "read_inputs",
    "read_samples",
    "replace_tensor",
    "rows_of",
    "samples_of_batch",
]


class WholeBatchError(ValueError):
    """A model that is given further tensors, one row per sample, was called with samples whose rows are unknown."""


def read_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """The input and the labels of a batch that is a tuple or list ``(x, y, ...)``, or a mapping with usual keys.

    Args:
        batch: ``(x, y)`` with anything behind, or a mapping with a tensor under one of the keys image, images, img,
            pixel_values, input, inputs, data, x, and one under label, labels, target, targets, y.

    Returns:
        ``(x, y)``, the very tensors of the batch.

    Raises:
        ValueError: if the batch has another form, several of these keys, or inputs in the place of labels; it names the
            form expected and the one it got.
    """
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        x, y = batch[0], batch[1]
    elif isinstance(batch, Mapping):
        x, y = _only(batch, _INPUT_KEYS), _only(batch, _LABEL_KEYS)
    else:
        x = y = None
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        msg = (
            f"expected a batch (x, y, ...) of tensors, or a mapping with one of the keys {_INPUT_KEYS} and one of "
            f"{_LABEL_KEYS}, got {describe(batch)}; pass batch_fn=... to read x and y out of it"
        )
        raise ValueError(msg)
    if x.ndim < 2 and not x.is_floating_point() and y.ndim > 1 and y.is_floating_point():
        msg = (
            f"expected a batch (x, y, ...), got {describe(batch)}, in which y looks like inputs, and x like labels or "
            "numbers of samples; pass batch_fn=... to read x and y out of it"
        )
        raise ValueError(msg)
    return x, y


def read_inputs(batch: Any) -> Tensor:
    """The inputs of a batch whose labels, if it has any, do not matter.

    Args:
        batch: a tensor, a tuple or list that begins with it, or a mapping with one of the keys of :func:`read_batch`,
            or with one tensor alone.

    Raises:
        ValueError: if there is no such tensor, or several.

    Example:
        >>> import torch
        >>> read_inputs({"id": torch.arange(3), "image": torch.zeros(3, 2)}).shape
        torch.Size([3, 2])
    """
    x = batch
    if isinstance(batch, tuple | list) and batch:
        x = batch[0]
    elif isinstance(batch, Mapping):
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        x = tensors[0] if len(tensors) == 1 else _only(batch, _INPUT_KEYS)
    if not isinstance(x, Tensor):
        msg = (
            f"expected a tensor, a tuple that begins with one, or a mapping with one of the keys {_INPUT_KEYS}, got "
            f"{describe(batch)}; pass batch_fn=... to read the inputs out of it"
        )
        raise ValueError(msg)
    return x


def read_samples(batch_fn: BatchFn, batch: Any) -> tuple[Tensor, Tensor]:
    """What ``batch_fn`` reads out of ``batch``.

    Raises:
        ValueError: if that is not two tensors.
    """
    pair = batch_fn(batch)
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        msg = f"expected batch_fn to return the tensors (x, y), got {pair!r:.200}"
        raise ValueError(msg)
    x, y = pair
    return x, y


def check_samples(x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless ``x`` are floating inputs ``[N, ...]``, at least one, and ``y`` has N rows."""
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0 or y.ndim == 0 or len(x) != len(y):
        msg = (
            "expected floating inputs [N, ...] with N >= 1 and labels [N], "
            f"got {x.dtype} {tuple(x.shape)} and {tuple(y.shape)}"
        )
        raise ValueError(msg)


def replace_tensor(batch: Any, old: Tensor, new: Tensor, *, first: bool = False) -> Any:
    """A copy of ``batch``, of any nesting, with the tensor object ``old`` replaced by ``new``.

    Args:
        batch: the batch.
        old: a tensor in it.
        new: what takes its place.
        first: whether it does so where it comes first alone, as it is the target too.

    Raises:
        ValueError: if ``old`` is not a tensor of the batch, as when batch_fn returned a copy.
    """
    replaced = False

    def swap(tensor: Tensor) -> Tensor:
        nonlocal replaced
        if tensor is not old or (first and replaced):
            return tensor
        replaced = True
        return new

    swapped = apply_to_collection(batch, Tensor, swap)
    if not replaced:
        msg = (
            "expected batch_fn to return the batch's own input tensor, which the perturbed one replaces in tuples, "
            f"lists, dicts and dataclasses of any depth, got a tensor that is not in the batch: {describe(batch)}"
        )
        raise ValueError(msg)
    return swapped


def tensors_in(collection: Any) -> list[Tensor]:
    """The tensors in nested containers, in their order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    apply_to_collection(collection, Tensor, note, allow_frozen=True)
    return found


def first_samples(batch: Any, samples: int, n: int) -> Any:
    """A copy of ``batch``, of any nesting, with the first ``n`` rows of each tensor of as many rows as ``samples``.

    Example:
        >>> import torch
        >>> first_samples({"x": torch.zeros(3, 2), "mean": torch.tensor(0.5)}, samples=3, n=1)
        {'x': tensor([[0., 0.]]), 'mean': tensor(0.5000)}
    """
    return rows_of(batch, samples, slice(n))


def rows_of(batch: Any, samples: int, places: Tensor | slice) -> Any:
    """The same with some rows; what has not a row for each of the samples stays as it is."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[places] if tensor.ndim and len(tensor) == samples else tensor

    return apply_to_collection(batch, Tensor, chosen)


_PART: ContextVar[tuple[Tensor, int] | None] = ContextVar("part", default=None)


@contextmanager
def part_of_batch(samples: Tensor, of: int) -> Iterator[None]:
    """Around calls of a model with a part of the batch, for models to which a sample's place in the batch matters.

    Args:
        samples: indices of the samples, rising.
        of: number of samples of the whole batch, or of the part that the calls are already in.
    """
    outer = _PART.get()
    token = _PART.set((samples, of) if outer is None else (outer[0][samples], outer[1]))
    try:
        yield
    finally:
        _PART.reset(token)


@contextmanager
def whole_batch() -> Iterator[None]:
    """Around calls of a model with all samples, wherever they are made."""
    token = _PART.set(None)
    try:
        yield
    finally:
        _PART.reset(token)


def samples_of_batch() -> tuple[Tensor, int] | None:
    """Which samples of a batch, of how many, a model is given now; None: all.

    Example:
        >>> import torch
        >>> with part_of_batch(torch.tensor([1, 2, 5]), 6), part_of_batch(torch.tensor([0, 2]), 3):
        ...     samples_of_batch()
        (tensor([1, 5]), 6)
    """
    return _PART.get()


def _only(batch: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The tensor under the one key of ``keys`` that ``batch`` has; None if it has none."""
    found = [key for key in keys if isinstance(batch.get(key), Tensor)]
    if len(found) > 1:
        msg = f"expected a batch with one of the keys {keys}, got {found}; pass batch_fn=... to say which is meant"
        raise ValueError(msg)
    return batch[found[0]] if found else None


def describe(batch: Any) -> str:
    """The type of a batch, or of what else was expected to hold tensors, and what is in it."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with keys {list(batch)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {[type(item).__name__ for item in batch]}"
    return f"a {type(batch).__name__}"
