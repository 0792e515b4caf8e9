"""What an object is, in words that are the same in every process and differ wherever its behaviour may."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def without_addresses(text: str) -> str:
    """``text``, a repr, without the addresses of objects, which change from process to process.

    Example:
        >>> without_addresses("Mine(<function <lambda> at 0x7f1bb26536a0>)")
        'Mine(<function <lambda>>)'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def eps_in_words(eps: float) -> str:
    """A radius in few digits; as a fraction of 255, where that is what it is and digits are many.

    Example:
        >>> eps_in_words(4 / 255), eps_in_words(0.2), eps_in_words(1 / 7)
        ('4/255', '0.2', '0.142857')
    """
    steps = round(255 * eps)
    is_fraction = float(f"{eps:.3g}") != eps and steps > 0 and abs(255 * eps - steps) < 1e-4
    return f"{steps}/255" if is_fraction else f"{eps:g}"


def described(value: Any, *, leave_out: frozenset[str] = frozenset()) -> str:
    """A digest of all that ``value`` holds: numbers, tensors, the code of functions, attributes, private ones too.

    Args:
        value: any object; its parts may refer to each other.
        leave_out: names of attributes that do not count.

    Example:
        >>> described(partial(max, 1)) == described(partial(max, 1)), described(partial(max, 1)) == described(max)
        (True, False)
    """
    return hashlib.sha256(repr(_described(value, leave_out, ())).encode()).hexdigest()[:16]


def _described(value: Any, leave_out: frozenset[str], above: tuple[int, ...]) -> Any:
    """Tuples of strings; ``above`` are the objects that ``value`` is a part of."""
    if id(value) in above:
        return f"the object {len(above) - above.index(id(value))} above"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    parts = next((take(value) for types, take in _TAKEN_APART if isinstance(value, types)), None)
    if parts is None:
        parts = [[name, part] for name, part in getattr(value, "__dict__", {}).items() if name not in leave_out]
    if not parts:
        return kind, without_addresses(repr(value))
    return kind, tuple(_described(part, leave_out, (*above, id(value))) for part in parts)


def _of_array(array: Any) -> list[str]:
    tensor = torch.as_tensor(array).detach().cpu().contiguous()
    content = tensor.flatten().view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype), str(tuple(tensor.shape)), hashlib.sha256(content).hexdigest()]


_TAKEN_APART: list[tuple[Any, Callable[[Any], list[Any]]]] = [
    ((str, bytes, int, float, complex), lambda _: []),
    ((Tensor, np.ndarray), _of_array),
    (type, lambda t: [t.__module__, t.__qualname__]),
    (CodeType, lambda c: [c.co_code, c.co_consts, c.co_names]),
    (
        FunctionType,
        lambda f: [f.__qualname__, f.__code__, f.__defaults__, [cell.cell_contents for cell in f.__closure__ or ()]],
    ),
    (MethodType, lambda m: [m.__func__, m.__self__]),
    (partial, lambda p: [p.func, p.args, p.keywords]),
    (Mapping, lambda m: [[key, part] for key, part in m.items()]),
    ((list, tuple), list),
    ((set, frozenset), lambda s: sorted(described(part) for part in s)),
]
"""What the objects of a type consist of; others consist of their attributes, and those without of their repr."""
