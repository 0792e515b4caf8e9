"""Waits, in a step that calls parts of the model and not the model, for the first layer to be given what is x's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.layers.probe import first_floating
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


class _ReachedError(BaseException):
    """Ends a pass at the first layer. Not an Exception, so that no handler in the model swallows it."""


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """The first module with parameters that a model calls.

    Attributes:
        module: that.
        place: where in the memory of x its input lies, as a view: offset in bytes, shape but for the number of samples,
            and strides; None: the model makes another tensor of x first.
        until: the parts that are called until it is, itself at the end, each with its number.
    """

    module: nn.Module
    place: tuple[Any, ...] | None
    until: dict[nn.Module, int]

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> FirstLayer | None:
        """That of a pass on ``x``; None if the pass calls none."""
        own, found = x.clone(), []
        until: dict[nn.Module, int] = {}

        def reached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = input_in(args, kwargs)
            if module is not model:
                until.setdefault(module, len(until))
            if given is not None and next(module.parameters(recurse=False), None) is not None:
                inside = given.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
                found.append(cls(module, _place(given, own) if inside else None, until))
                raise _ReachedError

        _run_until(reached, hookable_modules(model), lambda: model(own))
        return found[0] if found else None

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
    """Waits for the call of the first layer that is given what the model gives it of x, under gradients if they are on.

    Other calls, as of inputs without labels or of another view, may come before.

    Args:
        own: what waits for the call of the model itself; the first layer may come instead.
        first: the first layer.
        model: the model.
        keep_outputs: whether :meth:`output` is asked for.
    """

    def __init__(self, own: OwnCall, first: FirstLayer, model: nn.Module, *, keep_outputs: bool = False) -> None:
        self.own = own
        self.first = first
        self.model = model
        self._keep_outputs = keep_outputs
        self._version = version(own.given.x)
        self._with_gradients = torch.is_grad_enabled()  # else those of steps in validation count
        self._state: RandomState | None = None
        self._reached = len(first.until)
        self._buffers: Buffers = {}
        self._others = False
        self._asks = False
        self._outputs: list[Tensor] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the step."""
        with ExitStack() as stack:
            for part in hookable_modules(self.model):
                if part is not self.model:
                    stack.callback(part.register_forward_pre_hook(self._called, with_kwargs=True).remove)
                    if self._keep_outputs:
                        stack.callback(part.register_forward_hook(self._keep).remove)
            yield

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = self.own.given.x
        if self.own.came or self._asks or (self._with_gradients and not torch.is_grad_enabled()):
            return
        now = self.first.until.get(module)
        if now is None:
            return
        if now <= self._reached:  # a pass begins, and what lies before the first layer may draw random numbers
            self._state = RandomState(x.device)
        self._reached = now
        if module is not self.first.module:
            return
        self._reached = len(self.first.until)
        given = input_in(args, kwargs)
        if given is None or not self._is_own(given, x):
            self._others = self._others or (given is not None and not self.own.given.is_other(given))
            return
        if self._keep_outputs:
            self._buffers = copied_buffers(self.model)
        self.own.begin(state=self._state)
        self.own.came = True

    def _is_own(self, given: Tensor, x: Tensor) -> bool:
        """Whether it is what the model makes of x; only where that is no view of it, numbers are looked at."""
        if self.first.place == _place(given, x):
            return self._version == version(x)
        if len(given) % len(x) or self.own.given.is_other(given):
            return False
        self._asks = True
        try:
            with preserved_random_state(x.device):
                assert self._state is not None
                self._state.restore()
                return equal(given, self.first.given_by(self.model, x))
        finally:
            self._asks = False

    def run(self, step: Callable[[], Any], name: str) -> Any:
        """What a step returns, of a model that messages call ``name``.

        Raises:
            MisconfigurationException: if the first layer was given other things alone.
        """
        with self.waiting():
            result = step()
        if result is not None and not self.own.came and self._others:
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

    def output(self) -> Tensor | None:
        """What a part returned in the step that is what the model returns; None: the model goes on after its parts."""
        x = self.own.given.x
        if self._state is None or not self._outputs:
            return None
        with preserved_random_state(x.device), scratch_buffers(self.model, self._buffers), torch.no_grad():
            self._state.restore()
            whole = first_floating(self.model(x.clone()))
        fits = [each for each in self._outputs if whole is not None and _are_close(each, whole)]
        return fits[-1] if fits else None


def _are_close(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    return torch.allclose(tensor, other, rtol=1e-3, atol=1e-5)
