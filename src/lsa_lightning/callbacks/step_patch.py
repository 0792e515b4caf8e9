"""The one place that wraps a LightningModule's ``training_step``, on the instance, and unwraps it again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

Wrapper = Callable[..., Any]
"""Called as ``wrapper(inner, batch, *args, **kwargs)``, where ``inner`` is the step that was there before."""


def patch_training_step(module: pl.LightningModule, wrapper: Wrapper) -> Callable[[], None]:
    """Let ``wrapper`` run in place of ``module.training_step``, until the returned function is called.

    Several patches stack, and may be removed in any order: one that is buried under a younger patch only becomes
    transparent, and goes for good as soon as it lies on top.

    Args:
        module: the instance to patch; its class is not touched.
        wrapper: see :data:`Wrapper`.

    Returns:
        A function that removes the patch; calling it again does nothing.
    """
    inner = module.training_step

    @functools.wraps(inner)
    def step(*args: Any, **kwargs: Any) -> Any:
        return wrapper(inner, *args, **kwargs) if step.active else inner(*args, **kwargs)  # type: ignore[attr-defined]

    # Lightning unwraps a single level to read the signature, and training_step(self, batch) is a legal one.
    step.__wrapped__ = inspect.unwrap(inner)
    step.active = True  # type: ignore[attr-defined]
    step.inner = vars(module).get("training_step")  # type: ignore[attr-defined]
    module.training_step = step  # type: ignore[method-assign]

    def remove() -> None:
        step.active = False  # type: ignore[attr-defined]
        _drop_inactive(module)

    return remove


def _drop_inactive(module: pl.LightningModule) -> None:
    while not getattr(vars(module).get("training_step"), "active", True):
        inner = vars(module)["training_step"].inner
        del module.training_step
        if inner is not None:
            module.training_step = inner  # type: ignore[method-assign]
