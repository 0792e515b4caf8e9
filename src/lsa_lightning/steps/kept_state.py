"""What a model keeps from one pass to the next, which passes that are added to a step would move too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lsa_lightning.functional import relative_error


@contextmanager
def parameters_stay(model: nn.Module, name: str) -> Iterator[None]:
    """Around passes that are added: parameters without gradients must stay what they are, as buffers do.

    Args:
        model: the model.
        name: what messages call it.

    Raises:
        MisconfigurationException: if a pass inside changes one.
    """
    before = {key: value.detach().clone() for key, value in model.named_parameters() if not value.requires_grad}
    yield
    moved = [key for key, value in model.named_parameters() if key in before and not _same(value, before[key])]
    if moved:
        msg = (
            f"{name} changes parameters without gradients in its forward pass, {moved[:3]}, which would move in each "
            "of the passes that an attack adds to a step: expected buffers, which are put back, or that they are "
            "changed in training_step, behind the model's call, or in a hook"
        )
        raise MisconfigurationException(msg)


@contextmanager
def parameters_put_back(module: nn.Module) -> Iterator[None]:
    """Around a step that is begun once more: parameters, as a teacher's, are afterwards as before."""
    held = list(module.parameters())
    before = [value.detach().clone() for value in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, old in zip(held, before, strict=True):
                if value.layout is not torch.strided or not _same(value, old):  # a graph may hold it as it is
                    value.copy_(old)


def _same(value: Tensor, before: Tensor) -> bool:
    if value.layout is not torch.strided:  # sparse ones cannot be compared
        return True
    return bool(((value == before) | (value.isnan() & before.isnan())).all())


def warn_of_state(name: str, own: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    """Warn where layers do not answer as in the step when they are given the same input once more.

    Args:
        name: what messages call the model.
        own: representations of the step, by layer.
        again: those of the other pass, from the same random numbers and buffers.
    """
    errors = {layer: _mean_error(own[layer].detach(), again[layer].detach()) for layer in own if layer in again}
    layer = max(errors, key=lambda each: errors[each], default=None)
    if layer is not None and errors[layer] > 0.02:
        rank_zero_warn(
            f"{layer or 'the output'} of {name} answers otherwise when it is given the input of training_step once "
            f"more after it (relative error {errors[layer]:.2g}): the step changes the model behind its call, or the "
            "model keeps something from pass to pass that is no buffer. The penalty, or the objective, then holds "
            "that difference too."
        )


def _mean_error(own: Tensor, again: Tensor) -> float:
    if own.shape != again.shape:
        return float("inf")
    return float(relative_error(again.to(torch.float32), own.to(torch.float32)).mean()) if own.numel() else 0.0
