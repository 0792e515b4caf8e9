"""What a user's step feeds to the model, which need not be the batch's x: it may be normalised or augmented before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lsa_lightning.functional import is_binary
from lsa_lightning.utils.isolation import hookable_modules, preserved_random_state, scratch_buffers


@dataclass(frozen=True, eq=False)
class ModelCall:
    """The arguments that a module was called with, one of which is the input.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        key: position or keyword of the input.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: int | str

    @classmethod
    def found_in(cls, args: tuple[Any, ...], kwargs: dict[str, Any], samples: int) -> Self | None:
        """The call whose input is its first floating tensor ``[samples, ...]``; None where there is none."""
        arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        key = next((key for key, value in arguments if _is_input(value, samples)), None)
        return None if key is None else cls(args, dict(kwargs), key)

    @property
    def x(self) -> Tensor:
        """The input."""
        x: Tensor = self.args[self.key] if isinstance(self.key, int) else self.kwargs[self.key]
        return x

    @property
    def is_plain(self) -> bool:
        """Whether the input is the only argument, by position."""
        return len(self.args) == 1 and not self.kwargs

    def arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with ``x`` in place of the input."""
        if isinstance(self.key, str):
            return self.args, {**self.kwargs, self.key: x}
        return (*self.args[: self.key], x, *self.args[self.key + 1 :]), self.kwargs


def bound(model: nn.Module, call: ModelCall) -> nn.Module:
    """``model`` as a function of its input alone, with the other arguments of ``call``; its parts are the same."""
    function = copy.copy(model)

    def forward(x: Tensor) -> Any:
        args, kwargs = call.arguments(x)
        return model.forward(*args, **kwargs)

    function.forward = forward
    return function


class StepWatch:
    """Looks at how a user's step calls ``model``, from :meth:`open` to :meth:`close`, and may change each call's input.

    Args:
        model: the module whose calls are looked at.
        samples: number of samples N of the batch, by which the input is recognised among the arguments.
        swap: called with each call of ``model``; what it returns takes the input's place. Calls that it makes itself,
            or that are made while the watch is :meth:`paused`, are not looked at.

    Attributes:
        output: what the first call of ``model`` under gradients returned.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int,
        swap: Callable[[ModelCall], Tensor] = lambda call: call.x,
    ) -> None:
        self.model = model
        self.samples = samples
        self.swap = swap
        self.output: Any = None
        self._paused = False
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls inside are not looked at."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _call(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = None if self._paused else ModelCall.found_in(args, kwargs, self.samples)
        if call is None:
            return None
        with self.paused():
            return call.arguments(self.swap(call))

    def _keep_output(self, model: nn.Module, args: Any, output: Any) -> None:
        if self.output is None and not self._paused and torch.is_grad_enabled():
            self.output = output


class _CalledError(BaseException):
    """Ends a step when it calls the model. Not an Exception, so that no handler in the step swallows it."""

    def __init__(self, call: ModelCall) -> None:
        super().__init__()
        self.call = call


def input_of_step(model: nn.Module, name: str, step: Callable[[Any], Any], batch: Any, x: Tensor) -> ModelCall | None:
    """The call by which a step gives ``model`` something else than the batch's own x; None where it gives x.

    The step is run up to that call, on a copy of the batch; random state and buffers are afterwards as before. A step
    that never calls the model itself, but its submodules, must give the first layer what the model gives it.

    Args:
        model: what is attacked.
        name: what messages call it.
        step: the step as a function of the batch.
        batch: the batch.
        x: its inputs.

    Raises:
        MisconfigurationException: if the step never calls the model, and changes x before its first layer sees it.
    """
    copied = apply_to_collection(batch, Tensor, Tensor.clone)
    call, first_layer = _calls_in(model, lambda: step(copied), len(x))
    if call is not None:
        return None if call.is_plain and _equal(call.x, x) else call
    if first_layer is not None:
        _, expected = _calls_in(model, lambda: model(x.clone()), len(x), until_called=False)
        if expected is None or not _equal(first_layer, expected):
            msg = (
                f"training_step changes x before its first layer sees it, and never calls {name}, which is attacked: "
                "name the module that it gives the changed x to by backbone=..."
            )
            raise MisconfigurationException(msg)
    return None


def _calls_in(
    model: nn.Module, run: Callable[[], Any], samples: int, *, until_called: bool = True
) -> tuple[ModelCall | None, Tensor | None]:
    """How ``run`` calls ``model``, at which it ends, and what the first module with parameters is given."""
    first_layer: Tensor | None = None

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal first_layer
        call = ModelCall.found_in(args, kwargs, samples)
        if module is model and call is not None and until_called:
            raise _CalledError(call)
        if first_layer is None and call is not None and next(module.parameters(recurse=False), None) is not None:
            first_layer = call.x.detach().clone()

    modules = hookable_modules(model)
    handles = [module.register_forward_pre_hook(see, with_kwargs=True, prepend=True) for module in modules]
    device = next(model.parameters(), torch.zeros(())).device
    try:
        # A compiled model would not see the hooks.
        with torch.compiler.set_stance("force_eager"), preserved_random_state(device), scratch_buffers(model):
            run()
    except _CalledError as called:
        return called.call, first_layer
    finally:
        for handle in handles:
            handle.remove()
    return None, first_layer


def _equal(x: Tensor, other: Tensor) -> bool:
    return x.shape == other.shape and bool((x == other).all())


def labels_of_loss(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor] | None:
    r"""Which classes a loss pulls the samples of a batch to.

    For a cross-entropy, averaged over N samples, the gradient with respect to the logits is
    :math:`(p_{nk} - t_{nk}) / N`, which gives back its targets t.

    Args:
        loss: a scalar, computed from ``logits``.
        logits: ``[N]``, ``[N, 1]`` or ``[N, C]``.

    Returns:
        The targets ``[N, C]`` that a mean cross-entropy of this gradient has (C = 2 for one logit), and the class that
        each sample's gradient rises to most, ``[N]``; None where the loss does not depend on ``logits``.
    """
    gradient = (
        torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)[0] if loss.requires_grad else None
    )
    if gradient is None:
        return None
    gradient, logits = gradient.detach().float(), logits.detach().float()
    if is_binary(logits):
        z, g = logits.flatten(), gradient.flatten()
        logits, gradient = torch.stack([torch.zeros_like(z), z], 1), torch.stack([-g, g], 1)
    return logits.softmax(1) - len(logits) * gradient, (-gradient).argmax(1)


def _is_input(value: Any, samples: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == samples
