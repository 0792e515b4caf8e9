"""What is attacked: the part of a LightningModule that maps x to logits, and the x of a batch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.utils.batch import BatchFn


def find_backbone(module: pl.LightningModule, name: str | None) -> nn.Module:
    """The submodule called ``name``, or ``module`` itself for None.

    Raises:
        MisconfigurationException: if there is none of that name, or ``module`` has no forward; the message lists the
            submodules.
    """
    submodules: dict[str, nn.Module] = dict(module.named_modules())
    exist = f"these exist: {', '.join(filter(None, submodules))}"
    if name is None and type(module).forward is pl.LightningModule.forward:
        msg = (
            f"expected {type(module).__name__} to have a forward, or backbone to name the submodule to attack; {exist}"
        )
        raise MisconfigurationException(msg)
    if name is None:
        return module
    if name not in submodules or not name:
        msg = f"expected backbone to name a submodule, got {name!r}; {exist}"
        raise MisconfigurationException(msg)
    return submodules[name]


def as_input_space(value: InputSpace | tuple[Any, Any] | None) -> InputSpace | None:
    """An :class:`InputSpace` from itself or from ``(mean, std)``."""
    return value if value is None or isinstance(value, InputSpace) else InputSpace(*value)


def read(batch_fn: BatchFn, batch: Any) -> tuple[Tensor, Tensor]:
    """``batch_fn(batch)``, if that is a pair of tensors; its ValueError becomes Lightning's own exception."""
    try:
        pair = batch_fn(batch)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        msg = f"expected batch_fn to return the tensors (x, y), got {pair!r:.200}"
        raise MisconfigurationException(msg)
    x, y = pair
    return x, y


def craft(attack: Attack, input_space: InputSpace | None, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``attack`` in the space in which its ``eps`` is meant."""
    return attack(model, x, y) if input_space is None else input_space.craft(attack, model, x, y)
