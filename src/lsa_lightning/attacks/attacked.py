"""The model as an attack sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks.checks import Checks
from lsa_lightning.utils.batch import part_of_batch, samples_of_batch, whole_batch
from lsa_lightning.utils.isolation import preserved_random_state, scratch_buffers
from lsa_lightning.utils.outputs import logits_of_rows

_ROUNDING = 0.01
"""Difference of logits, in units of how far they lie from their mean, that may be rounding."""

_WATCHED: ContextVar[bool] = ContextVar("watched", default=False)

_NEEDS_GRADIENTS = ("does not require grad", "appears to not have been used in the graph")
"""What torch says where a forward pass takes gradients of frozen parameters."""


@contextmanager
def watched() -> Iterator[None]:
    """Inside, a model is given the samples that are asked about alone, as those who watch its layers expect."""
    token = _WATCHED.set(True)
    try:
        yield
    finally:
        _WATCHED.reset(token)


class AttackedModel:
    """The logits of a model for inputs that stay as they are; the first ones are checked.

    Some models normalise what they are given in place. The first pass, on a copy, shows whether this one does: if so,
    all its passes are on copies.

    Attacks let go of samples that are fooled. A model that mixes samples, such as one whose batch norms keep no
    statistics, is given these too from then on, each at its last point: else the others were attacked and judged with
    statistics that they do not have in the end.

    Args:
        model: what an attack was called with.
        checks: whether the model must be looked at, or is known.
        thaw: gives frozen parameters back, where the forward pass turns out to need their gradients.
        check: called once, with this object and the first inputs and logits.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        checks: Checks,
        thaw: Callable[[], None],
        check: Callable[[AttackedModel, Tensor, Tensor], None],
    ) -> None:
        self.attacked: Callable[..., Any] = getattr(model, "attacked", model)
        self.model = model
        self._checks = checks
        self._thaw = thaw
        self._check = check
        self._first = True
        self._whole: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The logits for ``x``."""
        part = samples_of_batch()
        if part is None or len(x) == part[1]:
            self._whole = x.detach()
        elif not _WATCHED.get() and self._knows(x, *part) and self._mixes(x, part[0]):
            return self._within_whole(x, part[0])
        return self._of(x)

    def _knows(self, x: Tensor, rows: Tensor, samples: int) -> bool:
        """Whether it knows the other samples; attacks inside of another one do not, whose model does."""
        return self._whole is not None and (len(self._whole), len(rows)) == (samples, len(x))

    def _mixes(self, x: Tensor, rows: Tensor) -> bool:
        """Whether the model says something else of samples alone than of the same ones within the batch."""
        if self._checks.mixes is None:
            few = min(len(x), max(len(x) // 4, 2))  # whose own statistics differ the most from those of the batch
            whole, model = self._whole, self.attacked
            buffers = scratch_buffers(model) if isinstance(model, nn.Module) else nullcontext()
            with torch.no_grad(), preserved_random_state(x.device), buffers, torch.compiler.set_stance("force_eager"):
                try:
                    # The last ones, as a function that adds rows of its own may take the first it has.
                    with part_of_batch(torch.arange(len(x) - few, len(x), device=x.device), len(x)):
                        alone, again = self._of(x[-few:]), self._of(x[-few:])
                except (IndexError, RuntimeError, ValueError):  # it takes no batches of other sizes
                    self._checks.mixes = True
                    return True
                assert whole is not None
                with whole_batch():
                    logits = self._of(whole.to(x.dtype).index_copy(0, rows, x))
            within = logits[rows][-few:]
            differ = (alone - within).abs().amax() > _ROUNDING * (logits - logits.mean(0)).abs().amax()
            # One that draws random numbers differs from itself too.
            self._checks.mixes = bool(differ) and torch.equal(alone, again)
        return self._checks.mixes

    def _within_whole(self, x: Tensor, rows: Tensor) -> Tensor:
        """The logits for some samples, the others of the batch being at their last points."""
        assert self._whole is not None
        whole = self._whole.to(x.dtype).index_copy(0, rows, x)
        self._whole = whole.detach()
        with whole_batch():
            return self._of(whole)[rows]

    def _of(self, x: Tensor) -> Tensor:
        first, self._first = self._first, False
        if not first:
            return logits_of_rows(self._output(x.clone() if self._checks.writes else x), len(x))
        logits = self._looked_at(x) if self._checks.at_once else logits_of_rows(self._output(x.clone()), len(x))
        self._check(self, x, logits)
        return logits

    def _looked_at(self, x: Tensor) -> Tensor:
        given = x.clone()
        version = given._version
        logits = logits_of_rows(self._output(given), len(x))
        # Writing through .data counts as no new version.
        self._checks.writes = given._version != version or not torch.equal(given, x)
        return logits

    def _output(self, x: Tensor) -> Any:
        try:
            return self.model(x)
        except RuntimeError as error:
            if not any(words in str(error) for words in _NEEDS_GRADIENTS):
                raise
        self._thaw()
        return self.model(x.clone())
