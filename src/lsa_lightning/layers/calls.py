"""Telling the calls of modules in a forward pass apart, so that the same call is found again in another pass."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torch import nn

LEARNABLE = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
"""Types of the layers that LSA names and that calls are told apart by."""

NOT_TAKEN = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What models raise that do not take so many samples, such as those of the given batch alone."""


class CallSite(NamedTuple):
    """One call of a module, recognised by the learnable layer that it follows.

    A number counted over the whole pass would mean another call as soon as an auxiliary head runs in training only, or
    a block is skipped.
    """

    module: str
    """Name of the module."""
    after: str | None
    """The learnable layer that returned last before it; None for a learnable layer itself, and before the first one."""
    number: int
    """How many such calls came before it in the pass."""


class CallOrder:
    """Names the calls of one forward pass as they return.

    Example:
        >>> order = CallOrder()
        >>> for name, module in [("fc1", nn.Linear(1, 1)), ("relu", nn.ReLU()), ("fc2", nn.Linear(1, 1))]:
        ...     _ = order.note(name, module)
        >>> order.note("relu", nn.ReLU())
        CallSite(module='relu', after='fc2', number=0)
    """

    def __init__(self) -> None:
        self._latest: str | None = None
        self._times: Counter[tuple[str, str | None]] = Counter()

    def note(self, name: str, module: nn.Module) -> CallSite:
        """Add the call that has just returned."""
        learnable = isinstance(module, LEARNABLE)
        after = None if learnable else self._latest
        site = CallSite(name, after, self._times[name, after])
        self._times[name, after] += 1
        if learnable:
            self._latest = name
        return site
