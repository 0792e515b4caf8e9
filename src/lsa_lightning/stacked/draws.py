"""Random numbers of stacked models: each draws its own rows from its own generator, as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lsa_lightning.utils.isolation import RandomState, preserved_random_state
from lsa_lightning.utils.random import Purpose, generator_of, generators_from


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the N samples of each model's batch.

    Attributes:
        rows: which.
        samples: N.
    """

    rows: slice
    samples: int

    @property
    def first(self) -> bool:
        """Whether the batch begins with it."""
        return bool(self.rows.start == 0)


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


class RowGenerators(torch.Generator):
    """The generators of S models, in place of one: a draw of ``[S N, ...]`` is S draws of ``[N, ...]``.

    What draws from it does so inside of :func:`draws_of`.

    Args:
        generators: one per model.
    """

    def __new__(cls, generators: Sequence[torch.Generator]) -> RowGenerators:
        """A generator on the device of the others."""
        return super().__new__(cls, generators[0].device)  # type: ignore[call-arg]

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self._part: Part | None = None
        self._drawn: list[Tensor] = []
        self._next = 0

    def get_state(self) -> Tensor:
        """The states of all, ``[S, ...]``."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def draw(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """What ``function`` draws: a method that fills a tensor, or one that makes a tensor of a size."""
        if not isinstance(args[0], Tensor):
            return self._made(function, args, kwargs)
        tensor, part = args[0], _PART.get()
        if part is None:
            self._fill(tensor, function, args[1:], kwargs)
        else:
            tensor.copy_(self._rows_of(part, tensor, function, args[1:], kwargs))
        return tensor

    def _fill(
        self, tensor: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        for rows, generator in zip(tensor.chunk(len(self.generators)), self.generators, strict=True):
            function(rows, *args, **{**kwargs, "generator": generator})

    def _rows_of(
        self, part: Part, tensor: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """The rows of a part, of draws for the whole batch, which are made once for all of its parts."""
        if self._part is not part:
            self._drawn = [] if part.first else self._drawn
            self._part, self._next = part, 0
        models = len(self.generators)
        if self._next == len(self._drawn):
            whole = tensor.new_empty(models * part.samples, *tensor.shape[1:])
            self._fill(whole, function, args, kwargs)
            self._drawn.append(whole.view(models, part.samples, *tensor.shape[1:]))
        self._next += 1
        return self._drawn[self._next - 1][:, part.rows].flatten(0, 1)

    def _made(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        *limits, size = args
        if _PART.get() is not None or not size:
            msg = "expected stacked models to draw a number per sample of the whole batch, got another draw"
            raise ValueError(msg)
        own = [size[0] // len(self.generators), *size[1:]]
        return torch.cat([function(*limits, own, **{**kwargs, "generator": each}) for each in self.generators])


class OwnRandom:
    """The global random numbers of one seed, which start as they are now, and go on each time where they were left.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> own = OwnRandom()
        >>> with own.used():
        ...     first = torch.rand(1)
        >>> with own.used():
        ...     second = torch.rand(1)
        >>> torch.equal(torch.cat([first, second]), torch.rand(2))
        True
    """

    def __init__(self) -> None:
        self._state = RandomState(_CPU)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the global generators give these; afterwards they are as before."""
        with preserved_random_state(_CPU):
            self._state.restore()
            try:
                yield
            finally:
                self._state = RandomState(_CPU)


_CPU = torch.device("cpu")


class _RowByRow(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        generator = (kwargs or {}).get("generator")
        if isinstance(generator, RowGenerators):
            return generator.draw(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextmanager
def drawing(part: Part) -> Iterator[None]:
    """Inside, what is drawn is for some of the samples; all parts of a batch come one after another."""
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


@contextmanager
def draws_of(seeds: Sequence[int] | None, models: int) -> Iterator[None]:
    """Inside, generators that are made anew are those of stacked models.

    Args:
        seeds: the seed of each model; None: torch's initial one for all, as where it is set in an evaluation.
        models: their number.
    """

    def make(seed: int | None, purpose: Purpose, *key: int, device: torch.device | str | None) -> RowGenerators:
        own = [torch.initial_seed()] * models if seeds is None else seeds
        each = own if seed is None else [seed] * models
        return RowGenerators([generator_of(number, purpose, *key, device=device) for number in each])

    with generators_from(make), _RowByRow():
        yield
