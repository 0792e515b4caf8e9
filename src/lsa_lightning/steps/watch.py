"""Hooks that look at each call of the model in a user's step, and may change what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lsa_lightning.steps.given_batch import GivenBatch
from lsa_lightning.steps.model_call import ModelCall


class StepWatch:
    """Looks at how a user's step calls ``model``, from :meth:`open` to :meth:`close`, and may change each call's input.

    Args:
        model: the module whose calls are looked at.
        given: what the input is recognised by among the arguments, see :meth:`GivenBatch.call`.
        swap: called with each call of ``model``; what it returns takes the input's place, None: the call is left alone.
            Calls that it makes itself, or that are made while the watch is :meth:`paused`, are not looked at.

    Attributes:
        output: what the first call of ``model`` under gradients, of those not left alone, returned.
    """

    def __init__(
        self,
        model: nn.Module,
        given: GivenBatch,
        swap: Callable[[ModelCall], Tensor | None],
    ) -> None:
        self.model = model
        self.given = given
        self.swap = swap
        self.output: Any = None
        self._paused = False
        self._left_alone = False
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Begin to look."""
        self._handles = [
            self.model.register_forward_pre_hook(self._call, with_kwargs=True, prepend=True),
            self.model.register_forward_hook(self._keep_output),
        ]

    def close(self) -> None:
        """Look no more; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def outside(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``step``, in which each call of a model that was compiled in place is looked at before it runs."""

        def looked_at(batch: Any) -> Any:
            own: Any = self.model._compiled_call_impl

            def call(*args: Any, **kwargs: Any) -> Any:
                self._call(self.model, args, kwargs)
                return own(*args, **kwargs)

            self.model._compiled_call_impl = call
            try:
                return step(batch)
            finally:
                self.model._compiled_call_impl = own

        return looked_at

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls inside are not looked at."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _call(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = None if self._paused else self.given.of_model(args, kwargs)
        if call is None:
            return None
        with self.paused():
            x = self.swap(call)
        self._left_alone = x is None
        return None if x is None else call.arguments(x)

    def _keep_output(self, model: nn.Module, args: Any, output: Any) -> None:
        if self.output is None and not self._paused and not self._left_alone and torch.is_grad_enabled():
            self.output = output
