"""Waits, in a step that calls parts of the model and not the model, for the first layer to be given what is x's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.layers.probe import first_floating
from lsa_lightning.steps.capture import NoCapture
from lsa_lightning.steps.given_batch import equal, input_in, version
from lsa_lightning.steps.own_call import OwnCall
from lsa_lightning.utils.isolation import (
    Buffers,
    RandomState,
    copied_buffers,
    hookable_modules,
    preserved_random_state,
    scratch_buffers,
)

T = TypeVar("T")


class _ReachedError(BaseException):
    """Ends a pass at the first layer. Not an Exception, so that no handler in the model swallows it."""


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """A module with parameters that is among the first that a model calls.

    Attributes:
        module: that.
        place: where in the memory of x its input lies, as a view: offset in bytes, type, shape but for the number of
            samples, and strides; None: the model makes another tensor of x first.
        until: the parts that are called until it is, itself at the end, each with its number.
        graded: whether calls of it without gradients do not count.
    """

    module: nn.Module
    place: tuple[Any, ...] | None
    until: dict[nn.Module, int]
    graded: bool

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> list[FirstLayer]:
        """Those of a pass on ``x``, the outer ones first; the model itself is none, as its step goes past it.

        A module that holds others may be one, and those that it calls, of which a step may call the inner ones alone;
        the first that holds none is the last.
        """
        own, graded = x.clone(), torch.is_grad_enabled()
        found: list[FirstLayer] = []
        until: dict[nn.Module, int] = {}

        def reached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = input_in(args, kwargs)
            if module is model:
                return
            until.setdefault(module, len(until))
            if given is not None and next(module.parameters(recurse=False), None) is not None:
                inside = given.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
                found.append(cls(module, _place(given, own) if inside else None, dict(until), graded))
                if all(next(child.parameters(), None) is None for child in module.children()):
                    raise _ReachedError

        _run_until(reached, hookable_modules(model), lambda: model(own))
        return found

    def given_by(self, model: nn.Module, x: Tensor) -> Tensor | None:
        """What ``model`` gives it when it is given ``x``."""
        found = []

        def reached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(input_in(args, kwargs))
            raise _ReachedError

        _run_until(reached, [self.module], lambda: model(x.clone()))
        return found[0] if found else None


def _run_until(reached: Callable[..., None], modules: list[nn.Module], run: Callable[[], Any]) -> None:
    handles = [module.register_forward_pre_hook(reached, with_kwargs=True) for module in modules]
    try:
        with suppress(_ReachedError), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


def _place(given: Tensor, x: Tensor) -> tuple[Any, ...]:
    return given.data_ptr() - x.data_ptr(), given.dtype, given.shape[1:], given.stride()


class OwnParts:
    """Waits for the call of the first layer that is given what the model gives it of x.

    Other calls, as of inputs without labels or of another view, may come before: what was captured until then is
    forgotten.

    Args:
        own: what waits for the call of the model itself; the first layer may come instead.
        first: the first layer.
        model: the model.
        quietly: inside, what the model's passes log or count does not count.
        keep_outputs: whether :meth:`outputs` is asked for.
    """

    def __init__(
        self,
        own: OwnCall,
        first: FirstLayer,
        model: nn.Module,
        *,
        quietly: Callable[[], AbstractContextManager[None]] = nullcontext,
        keep_outputs: bool = False,
    ) -> None:
        self.own = own
        self.first = first
        self.model = model
        self.quietly = quietly
        self._keep_outputs = keep_outputs
        self._x = own.given.x.clone()  # a step may write to x
        self._version = version(own.given.x)
        self._state = own.before
        self._reached = len(first.until)
        self._buffers: Buffers = {}
        self._came_before = False
        self._changed = False
        self._asks = False
        self._capture = NoCapture()
        self._outputs: list[Tensor] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the step."""
        with ExitStack() as stack:
            for part in self.first.until:
                stack.callback(part.register_forward_pre_hook(self._called, with_kwargs=True).remove)
            for part in hookable_modules(self.model) if self._keep_outputs else ():
                stack.callback(part.register_forward_hook(self._keep).remove)
            yield

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now = self.first.until[module]
        if self.own.came or self._asks or (self.first.graded and not torch.is_grad_enabled()):
            return
        if now <= self._reached:
            self._pass_begins()
        self._reached = now
        if module is not self.first.module:
            return
        self._reached = len(self.first.until)
        given = input_in(args, kwargs)
        state = None if given is None else self._state_of_own(given)
        if given is None or state is None:
            self._came_before = True
            self._changed = self._changed or (given is not None and not self.own.given.is_other(given))
        else:
            self._state, self.own.came = state, True
            if self._came_before or state is self.own.before or not self.first.graded:
                self._capture.began_at(state, anew=self._came_before)

    def _pass_begins(self) -> None:
        """What lies before the first layer may draw random numbers, and write to buffers."""
        self._state = RandomState(self._x.device)
        if self.first.place is None or self._keep_outputs:
            self._buffers = copied_buffers(self.model)

    def _state_of_own(self, given: Tensor) -> RandomState | None:
        """The random state with which the pass on x began, if ``given`` is what the model makes of x; else None.

        Only where that is no view of x, numbers are looked at: those that the model makes of x with the random numbers
        of the first part that was called, or with those of the step's beginning.
        """
        x = self.own.given.x
        if self.first.place == _place(given, x) and self._version == version(x):
            return self._state
        if len(given) % len(x) or self.own.given.is_other(given):
            return None
        states = [self._state] if self._came_before else [self._state, self.own.before]
        return next((state for state in states if equal(given, self._again(state, self._given_first))), None)

    def _given_first(self) -> Tensor | None:
        return self.first.given_by(self.model, self._x)

    def _again(self, state: RandomState, run: Callable[[], T]) -> T:
        """What the model does when the pass on x begins once more."""
        buffers = {key: buffer.clone() for key, buffer in self._buffers.items()}
        self._asks = True
        try:
            with preserved_random_state(self._x.device), scratch_buffers(self.model, buffers), self.quietly():
                state.restore()
                return run()
        finally:
            self._asks = False

    def run(self, step: Callable[[], Any], name: str, capture: NoCapture) -> Any:
        """What a step returns.

        Args:
            step: the step.
            name: what messages call the model.
            capture: told where the pass on x begins, if that is not the first.

        Raises:
            MisconfigurationException: if the first layer was given other things alone.
        """
        self._capture = capture
        with self.waiting():
            result = step()
        if result is not None and not self.own.came and self._changed:
            msg = (
                f"training_step changes x before the first layer of {name}, which is attacked, sees it, and never "
                f"calls {name} itself: name the module that it gives the changed x to by backbone=..."
            )
            raise MisconfigurationException(msg)
        return result

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_floating(output)
        if self.own.came and tensor is not None and tensor.requires_grad:
            self._outputs.append(tensor)

    def outputs(self) -> list[Tensor]:
        """What parts returned in the step that is what the model returns; none where it goes on after its parts."""
        whole = self._again(self._state, self._output) if self._outputs else None
        return [] if whole is None else [each for each in self._outputs if _are_close(each, whole)]

    def _output(self) -> Tensor | None:
        with torch.no_grad():
            return first_floating(self.model(self._x.clone()))


def _are_close(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    return torch.allclose(tensor, other, rtol=1e-3, atol=1e-5)
