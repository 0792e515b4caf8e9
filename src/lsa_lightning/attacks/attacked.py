"""The model as an attack sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lsa_lightning.attacks.checks import Checks
from lsa_lightning.utils.outputs import logits_of_rows

_NEEDS_GRADIENTS = ("does not require grad", "appears to not have been used in the graph")
"""What torch says where a forward pass takes gradients of frozen parameters."""


class AttackedModel:
    """The logits of a model for inputs that stay as they are; the first ones are checked.

    Some models normalise what they are given in place. The first pass, on a copy, shows whether this one does: if so,
    all its passes are on copies.

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

    def __call__(self, x: Tensor) -> Tensor:
        """The logits for ``x``."""
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
