"""Attributes of modules that are no buffers, which passes may change as well, put back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn


@contextmanager
def attributes_put_back(module: nn.Module) -> Iterator[None]:
    """Afterwards the plain attributes of ``module`` and of all its parts are as before, also after an exception.

    See :class:`Attributes`.

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
    before = Attributes(parts_of(module))
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


class Attributes:
    """What the plain attributes of modules are now.

    Those are numbers, texts, tensors (the same ones, whatever is written into them), and what Python's own containers
    hold, such as a cache, a hidden state, or outputs that are kept for the end of an epoch; objects that hold nothing
    else, such as a meter of averages, too. What lies in these is looked into if it holds at most 100 entries: of a
    longer list or dict, as of all samples of a data set, the entries are put back as they are, and containers of others
    are the same ones.

    Args:
        parts: the modules, each without its parts.

    Attributes:
        modules: modules that are kept in such containers.
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self.modules: list[nn.Module] = []
        self._of_objects: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        waiting: list[Any] = []
        for part in parts:
            if not type(part).__module__.startswith("torch.nn.modules."):  # they keep nothing but how they were made
                waiting += self._noted(vars(part))
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            if isinstance(value, _SIMPLE) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, nn.Module):
                self.modules.append(value)
            elif _is_container(value):
                if not isinstance(value, tuple):
                    self._contents.append((value, dict(value) if isinstance(value, dict) else list(value)))
                if len(value) <= _FEW:
                    waiting += value.values() if isinstance(value, dict) else value
            elif _is_plain_object(value):
                waiting += self._noted(vars(value))

    def _noted(self, namespace: dict[str, Any]) -> Iterable[Any]:
        """What an object holds besides what every module has."""
        own = {name: namespace[name] for name in namespace.keys() - _OF_ANY_MODULE}
        self._of_objects.append((namespace, {name: value for name, value in own.items() if _is_plain(value)}))
        return own.values()

    def put_back(self) -> None:
        """Make them what they were; what is new is gone."""
        for namespace, plain in self._of_objects:
            for name in namespace.keys() - _OF_ANY_MODULE - plain.keys():
                if _is_plain(namespace[name]):
                    del namespace[name]
            made = {name for name in plain.keys() - namespace.keys() if _is_registered(namespace, name)}
            namespace.update({name: value for name, value in plain.items() if name not in made} if made else plain)
        for value, content in self._contents:
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(content)


_FEW = 100
_SIMPLE = (int, float, complex, str, bytes, Tensor, type(None))
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)


def _is_container(value: Any) -> bool:
    """Whether it is one of Python's own: those of others may have rules of their own."""
    return type(value) in _CONTAINERS or isinstance(value, tuple)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_SIMPLE, tuple, list, dict, set, deque)) or _is_plain_object(value)


def _is_registered(namespace: dict[str, Any], name: str) -> bool:
    """Whether a module has made a parameter, a buffer or a part of what it had no value for."""
    return any(name in namespace.get(kind, ()) for kind in ("_parameters", "_buffers", "_modules"))


def _is_plain_object(value: Any) -> bool:
    """Whether an object holds nothing but numbers, texts, tensors and containers, as a meter of averages does."""
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict) or not held or isinstance(value, type | nn.Module) or callable(value):
        return False
    return all(isinstance(each, _SIMPLE) or _is_container(each) for each in held.values())


_OF_ANY_MODULE = frozenset(vars(pl.LightningModule())) | {"log", "_log_hyperparams", "_hparams", "_hparams_initial"}
"""Names of attributes that every module has."""
