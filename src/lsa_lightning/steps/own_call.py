"""Waits, in a step that runs on the crafted batch, for the call of the model that is given it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.steps.capture import NoCapture
from lsa_lightning.steps.given_batch import GivenBatch
from lsa_lightning.steps.model_call import ModelCall
from lsa_lightning.utils.isolation import RandomState, hookable_modules


class OwnCall:
    """Waits for the call of a step that is given x itself, and begins to capture layers there.

    Args:
        given: the batch that the step runs on.
        before: the random state that the step begins with.

    Attributes:
        capture: told when it comes.
        came: whether it has come.
    """

    def __init__(self, given: GivenBatch, before: RandomState) -> None:
        self.given = given
        self.before = before
        self.capture = NoCapture()
        self.came = False

    @contextmanager
    def unless_parts_come(self, model: nn.Module) -> Iterator[None]:
        """Inside, a step that gives x to a part of the model may call the model with anything after that."""

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = self.given.call(args, kwargs)
            if call is not None and torch.is_grad_enabled() and not self.given.is_other(call.x):
                self.came = True

        parts = [part for part in hookable_modules(model) if part is not model]
        handles = [part.register_forward_pre_hook(look, with_kwargs=True) for part in parts]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, call: ModelCall) -> Tensor | None:
        """What the call gets: its own input; None where it is left alone.

        Raises:
            ChangedInputError: if it is given something else.
        """
        if self.came:
            return call.x
        if self.given.is_aside(call) or not torch.is_grad_enabled():
            return None
        if not self.given.is_given(call):
            raise ChangedInputError(self.before)
        self.came = True
        self.capture.begin(called=True)
        return call.x


class ChangedInputError(BaseException):
    """Ends a step that gives the model something else than x. Not an Exception: no handler in the step swallows it.

    Args:
        before: the random state that the step began with.
    """

    def __init__(self, before: RandomState) -> None:
        self.before = before
