"""What a user's step feeds to the model, which need not be the batch's x: it may be normalised or augmented before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lsa_lightning.functional import is_binary
from lsa_lightning.utils.isolation import hookable_modules


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

    def arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with ``x`` in place of the input."""
        if isinstance(self.key, str):
            return self.args, {**self.kwargs, self.key: x}
        return (*self.args[: self.key], x, *self.args[self.key + 1 :]), self.kwargs


class BoundModel(nn.Module):
    """A model as a function of its input alone: its other arguments are those of one call.

    Args:
        model: the model.
        call: the call.
    """

    def __init__(self, model: nn.Module, call: ModelCall) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> Any:
        """The model's output for another input."""
        args, kwargs = self.call.arguments(x)
        return self.model(*args, **kwargs)


class StepWatch:
    """Looks at how a user's step calls ``model``, from :meth:`open` to :meth:`close`, and may change each call's input.

    Args:
        model: the module whose calls are looked at.
        samples: number of samples N of the batch, by which the input is recognised among the arguments.
        swap: called with each call of ``model``; what it returns takes the input's place. Calls that it makes itself,
            or that are made while the watch is :meth:`paused`, are not looked at.
        submodules: whether to look at the submodules' calls too, for ``first``.

    Attributes:
        first: the first call of ``model`` or, where that is not called, of one of its submodules; None: there was none.
        called: whether ``model`` itself was called.
        output: what the first call of ``model`` returned.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int,
        swap: Callable[[ModelCall], Tensor] = lambda call: call.x,
        *,
        submodules: bool = False,
    ) -> None:
        self.model = model
        self.samples = samples
        self.swap = swap
        self.submodules = submodules
        self.first: ModelCall | None = None
        self.called = False
        self.output: Any = None
        self._paused = False
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Begin to look."""
        others = [module for module in hookable_modules(self.model) if self.submodules and module is not self.model]
        self._handles = [module.register_forward_pre_hook(self._see, with_kwargs=True) for module in others]
        self._handles.append(self.model.register_forward_pre_hook(self._call, with_kwargs=True, prepend=True))
        self._handles.append(self.model.register_forward_hook(self._keep_output))

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

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.first is None and not self._paused:
            self.first = ModelCall.found_in(args, kwargs, self.samples)

    def _call(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = None if self._paused else ModelCall.found_in(args, kwargs, self.samples)
        if call is None:
            return None
        self.first = self.first or call
        self.called = True
        with self.paused():
            return call.arguments(self.swap(call))

    def _keep_output(self, model: nn.Module, args: Any, output: Any) -> None:
        if self.output is None and not self._paused:
            self.output = output


def same_input(x: Tensor, other: Tensor) -> bool:
    """Whether two inputs hold the same values; a sync with the device, unless they are one object."""
    return x is other or (x.shape == other.shape and bool((x == other).all()))


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
