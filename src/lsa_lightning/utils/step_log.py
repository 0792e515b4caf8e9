"""Logging of what is averaged over an epoch, at little cost per step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor


def log_mean(module: pl.LightningModule, name: str, value: Tensor, batch_size: int) -> None:
    """What ``module.log(on_step=False, on_epoch=True, sync_dist=True)`` does, sooner.

    ``log`` compares its arguments with those of the epoch's first call and moves its metric in each call, which takes a
    small network as long as a forward pass. Here that is left to the epoch's first call.

    Args:
        module: the module that trains; a ``log`` of its own is called in each step.
        name: the key.
        value: a scalar.
        batch_size: weight of the value.
    """
    results = _running_results(module, name)
    value = value.detach()
    if results is None:
        module.log(name, value, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)
    else:
        results.update_metrics(_key(module, name), value, batch_size)


def _running_results(module: pl.LightningModule, name: str) -> Any:
    """Lightning's results, if they hold a mean that ``log`` has begun in this epoch; else None."""
    trainer = module._trainer
    if trainer is None or getattr(module.log, "__func__", None) is not pl.LightningModule.log:
        return None
    results = trainer._results
    metric = None if results is None else results.get(_key(module, name))
    if metric is None or metric.has_reset or not metric.is_tensor:
        return None
    return None if trainer._logger_connector.should_reset_tensors(str(module._current_fx_name)) else results


def _key(module: pl.LightningModule, name: str) -> str:
    return f"{module._current_fx_name}.{name}"
