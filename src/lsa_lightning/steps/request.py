"""What is asked of one adversarial step, and what it gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.layers.calls import CallSite

Craft = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``(model, x, y) -> x_adv``."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What the two passes of a step gave.

    Attributes:
        result: what the user's ``training_step`` returned.
        clean: representation of the clean input by layer.
        adversarial: representation of the adversarial input by layer.
        output: what the model returned in the step, if that was asked for; else None.
    """

    result: Any
    clean: dict[str, Tensor]
    adversarial: dict[str, Tensor]
    output: Any = None


@dataclass(frozen=True, eq=False)
class StepRequest:
    """One step: what is given, and what is wanted.

    Attributes:
        step: the user's step as a function of the batch.
        batch: the batch.
        x: its inputs.
        y: its labels.
        craft: makes the adversarial examples.
        layers: whose representations are wanted; without any, there is no other pass.
        sites: see :class:`~lsa_lightning.layers.probe.LayerProbe`.
        with_output: whether the model's output in the step is wanted too.
    """

    step: Callable[[Any], Any]
    batch: Any
    x: Tensor
    y: Tensor
    craft: Craft
    layers: list[str]
    sites: Mapping[str, CallSite]
    with_output: bool = False


def loss_of(result: Any) -> Tensor | None:
    """The loss in what a ``training_step`` returned; None where it skipped the batch."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if result is None or isinstance(loss, Tensor):
        return loss
    msg = f"expected training_step to return a loss tensor, a dict with key 'loss', or None, got {result!r}"
    raise MisconfigurationException(msg)
