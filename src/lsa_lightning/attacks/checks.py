"""When the numbers of a batch are checked: at once, or, so that a GPU need not stop for it, when they have arrived."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lsa_lightning.utils.devices import Arriving, runs_ahead

Test: TypeAlias = Callable[[list[float]], None]
"""Raises a ValueError unless the numbers are as expected."""

_MOST = 64
"""Batches that may wait to be checked; the oldest one is waited for when there are more."""


class Checks:
    """The checks of one attack, and of its copies.

    All numbers are checked at once on the CPU, and in the first batch of a model, which shows what is wrong with data,
    labels and model in nearly all cases. Those of a GPU's later batches are copied to the host while it goes on, and
    checked at the first call after they have arrived. Nothing goes unseen but what was not asked about any more after
    the last batch: :meth:`settle` asks.

    A model is known by its first parameter, which all wrappers of it share; plain functions are never known.

    Attributes:
        at_once: whether this batch is checked at once.
        writes: whether the known model changes the inputs that it is given.
        mixes: whether what it returns for some samples hangs on the others of the batch; None: nobody has looked.
    """

    def __init__(self) -> None:
        self.at_once = True
        self.writes = False
        self.mixes: bool | None = None
        self._known: weakref.ref[Tensor] | None = None
        self._waiting: deque[tuple[Arriving, Test]] = deque()

    def begin(self, model: Callable[..., Any], device: torch.device) -> None:
        """A batch on ``device`` for ``model``; raises a ValueError if an earlier one turns out to be wrong."""
        self.settle(wait=False)
        first = _first_parameter(model)
        known = first is not None and self._known is not None and self._known() is first
        self.at_once = not (known and runs_ahead(device))
        self.mixes = self.mixes if known else None

    def passed(self, model: Callable[..., Any]) -> None:
        """All was well with the batch."""
        first = _first_parameter(model)
        self._known = None if first is None else weakref.ref(first)

    def numbers(self, values: Tensor, test: Test) -> None:
        """Check ``values`` ``[M]``, at once or later.

        Raises:
            ValueError: the one of ``test``.
        """
        if self.at_once:
            test(values.tolist())
        else:
            self._waiting.append((Arriving(values), test))

    def settle(self, *, wait: bool = True) -> None:
        """Check what has arrived, or, with ``wait``, all that is on its way.

        Raises:
            ValueError: if something is wrong with an earlier batch.
        """
        while self._waiting and (wait or len(self._waiting) > _MOST or self._waiting[0][0].has_arrived):
            values, test = self._waiting.popleft()
            try:
                test(values.read())
            except ValueError as error:
                self._waiting.clear()
                msg = f"{error} (in an earlier batch: on a GPU, all but the first are checked while it goes on)"
                raise ValueError(msg) from None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process, or a deep one, begins afresh.
        return {**vars(self), "_known": None, "_waiting": deque()}


def _first_parameter(model: Callable[..., Any]) -> Tensor | None:
    model = getattr(model, "attacked", model)  # inside another attack
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None
