"""Keywords that got a better name: the old one goes on working, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keywords by their old names too, each with a FutureWarning that gives the new one.

    Args:
        new_names: new name by old name.

    Returns:
        A decorator.

    Raises:
        TypeError: when called, if a keyword is given by both of its names.

    Example:
        >>> @renamed(max_batches="limit_batches")
        ... def run(limit_batches=None):
        ...     return limit_batches
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     run(max_batches=3)
        3
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new_names.keys() & kwargs:
                new = new_names[old]
                if new in kwargs:
                    msg = f"expected {new} alone, its old name being {old}, got both"
                    raise TypeError(msg)
                warnings.warn(f"{old} is now called {new}", FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
