"""Attributes of modules that are no buffers, which passes may change as well, put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn


@contextmanager
def attributes_put_back(module: nn.Module) -> Iterator[None]:
    """Afterwards the plain attributes of ``module`` and of all its parts are as before, also after an exception.

    Those are numbers, texts, tensors (the same ones, whatever is written into them), tuples, and what lists, dicts,
    sets and deques hold at any depth, such as a cache, a hidden state, or outputs that are kept for the end of an
    epoch; objects that hold nothing else, such as a meter of averages, too. New ones are gone.

    Example:
        >>> class Counts(nn.Module):
        ...     passes = 0
        ...     def forward(self, x):
        ...         self.passes += 1
        ...         return x
        >>> model = nn.Sequential(Counts())
        >>> with attributes_put_back(model):
        ...     _ = model(1)
        >>> model[0].passes
        0
    """
    before = _Attributes(module)
    try:
        yield
    finally:
        before.put_back()


def parts_of(module: nn.Module) -> list[nn.Module]:
    """A module and all its parts, once each; in each step, so it goes through them without their names."""
    parts, seen = [module], {id(module)}
    for part in parts:
        new = [child for child in part._modules.values() if child is not None and id(child) not in seen]
        seen.update(map(id, new))
        parts.extend(new)
    return parts


def kept_by(part: nn.Module) -> list[Any]:
    """What a module keeps besides its parameters, buffers and parts, also within containers of any depth."""
    found: list[Any] = []
    seen: set[int] = set()
    rest = [] if _is_torchs(part) else [value for name, value in vars(part).items() if name not in _OF_ANY_MODULE]
    while rest:
        value = rest.pop()
        if id(value) not in seen:
            seen.add(id(value))
            found.append(value)
            rest.extend(_inside(value))
    return found


class _Attributes:
    """What the plain attributes of a module and of its parts are."""

    def __init__(self, module: nn.Module) -> None:
        self._of_objects: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        for part in parts_of(module):
            if not _is_torchs(part):
                self._note_object(vars(part))

    def _note_object(self, namespace: dict[str, Any]) -> None:
        plain = {name: value for name, value in namespace.items() if name not in _OF_ANY_MODULE and _is_plain(value)}
        self._of_objects.append((namespace, plain))
        self._note(plain.values())

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, _SIMPLE) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if isinstance(value, _CONTAINERS):
                if not isinstance(value, tuple):
                    self._contents.append((value, _copy(value)))
                self._note(_inside(value))
            elif _is_plain_object(value):
                self._note_object(vars(value))

    def put_back(self) -> None:
        for namespace, plain in self._of_objects:
            for name in [name for name, value in namespace.items() if name not in plain and _is_new(name, value)]:
                del namespace[name]
            namespace.update(plain)
        for value, content in self._contents:
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(content)


def _is_torchs(part: nn.Module) -> bool:
    """Whether it is one of torch's layers, which keep nothing but how they were made."""
    return type(part).__module__.startswith("torch.nn.")


_SIMPLE = (int, float, complex, str, bytes, Tensor, type(None))
_CONTAINERS = (tuple, list, dict, set, deque)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_SIMPLE, *_CONTAINERS)) or _is_plain_object(value)


def _is_new(name: str, value: Any) -> bool:
    return name not in _OF_ANY_MODULE and _is_plain(value)


def _is_plain_object(value: Any) -> bool:
    """Whether an object holds nothing but numbers, texts, tensors and containers, as a meter of averages does."""
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict) or not held or isinstance(value, type | nn.Module) or callable(value):
        return False
    return all(isinstance(each, (*_SIMPLE, *_CONTAINERS)) for each in held.values())


def _copy(value: Any) -> Any:
    """The content of a container, in one that has no rules of its own."""
    return dict(value) if isinstance(value, dict) else list(value)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple | list | deque) else ()


_OF_ANY_MODULE = frozenset(vars(pl.LightningModule())) | {"log", "_log_hyperparams", "_hparams", "_hparams_initial"}
"""Names of attributes that every module has."""
