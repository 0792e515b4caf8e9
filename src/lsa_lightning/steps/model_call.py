"""A call of the model in a user's step, and the model as a function of that call's input alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lsa_lightning.utils.batch import WholeBatchError, replace_tensor, rows_of, samples_of_batch, tensors_in

Lines: TypeAlias = tuple[tuple[int, int], ...]
"""Lines of code, each called from the next: what code they are of, and where in it."""

Place: TypeAlias = tuple[Lines, int]
"""The lines that make a call, and how many they have made before in the step."""


@dataclass(frozen=True, eq=False)
class ModelCall:
    """The arguments that a module was called with, one of which is, or holds, the input.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        x: the input.
        guessed: whether another argument might as well be the input.
        place: where the step makes it, see :class:`~lsa_lightning.steps.given_batch.GivenBatch`; None: nobody asked.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x: Tensor
    guessed: bool = False
    place: Place | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the input is the only argument, by position."""
        return len(self.args) == 1 and not self.kwargs and self.args[0] is self.x

    def arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with ``x`` in place of the input, and the other tensors' rows beside it.

        Args:
            x: as many samples as the input has, or some of them: those that are named by
                :func:`~lsa_lightning.utils.batch.part_of_batch`, else its own first ones; where no other argument has a
                row per sample, any number of samples.

        Raises:
            WholeBatchError: if ``x`` is other samples, whose rows of the other arguments are unknown.
        """
        samples = len(self.x)
        arguments = replace_tensor((self.args, self.kwargs), self.x, x)
        if len(x) != samples and _have_rows(arguments, samples):
            arguments = rows_of(arguments, samples, self._places(x))
        args, kwargs = arguments
        return args, kwargs

    def _places(self, x: Tensor) -> Tensor | slice:
        """Which samples of the batch ``x`` are."""
        part = samples_of_batch()
        if part is not None and (len(part[0]), part[1]) == (len(x), len(self.x)):
            return part[0]
        if torch.equal(x, self.x[: len(x)]):
            return slice(len(x))
        msg = (
            f"expected the {len(self.x)} samples of the batch, as the model is given further tensors with a row for "
            f"each, got {len(x)}: attacks of one's own give it all samples, or name some by part_of_batch, and "
            "unlabelled inputs have no such rows"
        )
        raise WholeBatchError(msg)


def _have_rows(arguments: Any, samples: int) -> bool:
    """Whether a tensor among ``arguments`` has as many rows as there are ``samples``."""
    return any(each.ndim > 0 and len(each) == samples for each in tensors_in(arguments))


def bound(model: nn.Module, arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]) -> nn.Module:
    """``model`` as a function of its input alone, called with the ``arguments`` for it; its parts are the same."""
    function = copy.copy(model)
    # What copies leave out is there, as the Trainer of a LightningModule, but what was compiled in place of all this.
    vars(function).update({**vars(model), "_compiled_call_impl": None})
    if isinstance(model, pl.LightningModule):
        vars(function)["log"] = partial(_log, model)
    # Its own mode is that of the function, which an attack puts in eval mode, and not the model's.
    own_forward = model.forward if "forward" in vars(model) else partial(type(model).forward, function)

    def forward(x: Tensor) -> Any:
        args, kwargs = arguments(x)
        return own_forward(*args, **kwargs)

    function.forward = forward
    return function


def _log(module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
    """As ``module`` logs at that moment: it may be silenced meanwhile, see :func:`off_the_record`."""
    module.log(*args, **kwargs)
