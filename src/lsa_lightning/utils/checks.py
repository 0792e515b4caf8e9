"""Checks of what users pass in: each returns the value in its plain type, or says what was expected and what it got.

``owner`` is the object (or the name of the function) that the argument belongs to; its class begins the message. Every
check takes ``also``, what else is allowed, as the message says it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

_LIMITS = {"low": (">=", operator.ge), "above": (">", operator.gt), "high": ("<=", operator.le)}
_LIMITS |= {"below": ("<", operator.lt)}


def refuse(owner: object, name: str, what: str, value: object) -> NoReturn:
    """Raise the ValueError of an argument that is not ``what``."""
    title = owner if isinstance(owner, str) else type(owner).__name__
    got = " ".join(repr(value).split())
    msg = f"{title}: expected {name} to be {what}, got {got if len(got) <= 300 else f'{got[:300]}...'}"
    raise ValueError(msg)


def number(owner: object, name: str, value: Any, *, also: str = "", **limits: float) -> float:
    """A finite real number, and no bool, within ``low`` or ``above`` and then ``high`` or ``below``, if they are given.

    Example:
        >>> number("PGD", "eps", 1, low=0)
        1.0
        >>> number("PGD", "eps", "0.1", low=0)
        Traceback (most recent call last):
        ValueError: PGD: expected eps to be a finite number >= 0, got '0.1'
    """
    given = _as_float(value)
    if not (math.isfinite(given) and _within(given, limits)):
        refuse(owner, name, f"a finite number{_in_words(limits)}{also}", value)
    return given


def integer(owner: object, name: str, value: Any, *, also: str = "", **limits: float) -> int:
    """An integer, also one of NumPy or torch, but no bool and no 1.0; limits as those of :func:`number`.

    Example:
        >>> integer("PGD", "steps", 1.5, low=1)
        Traceback (most recent call last):
        ValueError: PGD: expected steps to be an integer >= 1, got 1.5
    """
    given = _as_int(value)
    if given is None or not _within(given, limits):
        refuse(owner, name, f"an integer{_in_words(limits)}{also}", value)
    return given


def flag(owner: object, name: str, value: Any, *, also: str = "") -> bool:
    """True or False; neither 1 nor "false"."""
    if not isinstance(value, bool | np.bool_):
        refuse(owner, name, f"True or False{also}", value)
    return bool(value)


def text(owner: object, name: str, value: Any, *, also: str = "") -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        refuse(owner, name, f"a name{also}", value)
    return value


def choice(owner: object, name: str, value: Any, options: Collection[str], *, also: str = "") -> str:
    """One of some strings."""
    if not isinstance(value, str) or value not in options:
        refuse(owner, name, f"one of {list(options)}{also}", value)
    return value


def instance(
    owner: object, name: str, value: Any, kind: type[T] | tuple[type[T], ...], *, what: str = "", also: str = ""
) -> T:
    """An object of a class, or of one of several; ``what`` says more than their names.

    Example:
        >>> instance("AdversarialTraining", "attack", 0.1, Exception, what="an Attack")
        Traceback (most recent call last):
        ValueError: AdversarialTraining: expected attack to be an Attack, got 0.1
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        refuse(owner, name, f"{what or ' or '.join(_with_article(each.__name__) for each in kinds)}{also}", value)
    return value


def function(owner: object, name: str, value: Any, *, what: str = "a function", also: str = "") -> Any:
    """Something that can be called."""
    if not callable(value):
        refuse(owner, name, f"{what}{also}", value)
    return value


def sequence(
    owner: object, name: str, values: Any, each: Callable[..., T], *, also: str = "", **options: Any
) -> list[T]:
    """A list of values, at least one, that each pass the check ``each`` with these options.

    Example:
        >>> sequence("MLP", "hidden", [100, 0], integer, low=1)
        Traceback (most recent call last):
        ValueError: MLP: expected hidden[1] to be an integer >= 1, got 0
    """
    items = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    iterable = isinstance(items, Iterable) and not isinstance(items, str | bytes | Mapping | type)
    items = list(items) if iterable else []
    if not items:
        refuse(owner, name, f"a list of at least one value{also}", values)
    return [each(owner, f"{name}[{i}]", item, **options) for i, item in enumerate(items)]


def mapping(
    owner: object, name: str, values: Any, each: Callable[..., T], *, also: str = "", **options: Any
) -> dict[str, T]:
    """A mapping of names, at least one, to values that each pass the check ``each`` with these options.

    A number counts as a name: modules of an ``nn.Sequential`` are called so, which YAML reads as numbers.

    Example:
        >>> mapping("LayerwiseRegularizer", "gamma", {"fc1": -1}, number, low=0)
        Traceback (most recent call last):
        ValueError: LayerwiseRegularizer: expected gamma['fc1'] to be a finite number >= 0, got -1
    """
    if not isinstance(values, Mapping) or not values or not all(isinstance(key, str | int) for key in values):
        refuse(owner, name, f"a mapping of at least one name{also}", values)
    return {str(key): each(owner, f"{name}[{key!r}]", value, **options) for key, value in values.items()}


def or_none(check: Callable[..., T], owner: object, name: str, value: Any, *args: Any, **options: Any) -> T | None:
    """None, or what passes another check.

    Example:
        >>> or_none(integer, "ATLR", "top_k", 0, low=1)
        Traceback (most recent call last):
        ValueError: ATLR: expected top_k to be an integer >= 1 or None, got 0
    """
    return None if value is None else check(owner, name, value, *args, also=" or None", **options)


def _as_float(value: Any) -> float:
    """NaN for what is no real number; infinite for an integer that is too large."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_int(value: Any) -> int | None:
    # Boolean tensors, and such of one element, can be indices too, and before NumPy 2.3 its booleans.
    if isinstance(value, bool | np.bool_) or (
        isinstance(value, Tensor) and (value.ndim > 0 or value.dtype == torch.bool)
    ):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _within(value: float, limits: Mapping[str, float]) -> bool:
    return all(_LIMITS[key][1](value, limit) for key, limit in limits.items())


def _in_words(limits: Mapping[str, float]) -> str:
    if len(limits) == 2:
        (low, start), (high, end) = limits.items()
        return f" in {'[' if low == 'low' else '('}{start}, {end}{']' if high == 'high' else ')'}"
    return "".join(f" {_LIMITS[key][0]} {limit}" for key, limit in limits.items())


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
