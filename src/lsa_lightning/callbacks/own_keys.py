"""Logging under keys that are this library's own: they neither replace nor mix with what others log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from lsa_lightning.utils.step_log import log_mean


def log_own(
    owner: object, module: pl.LightningModule, name: str, value: float | Tensor | Metric, **options: Any
) -> None:
    """``module.log``, unless somebody else logs ``name``; nothing where the Trainer forbids logging (``barebones``).

    Args:
        owner: who logs, such as the callback.
        module: the module that trains.
        name: the key.
        value: a number, or a metric that holds it.
        **options: passed to ``log``.

    Raises:
        MisconfigurationException: if the module or another callback logs ``name`` too.
    """
    trainer = module.trainer
    if trainer.barebones:
        return
    refuse_others(owner, trainer, [name])
    module.log(name, value, **options)
    _own(owner, trainer, name)


def log_own_mean(owner: object, module: pl.LightningModule, name: str, value: Tensor, batch_size: int) -> None:
    """:func:`log_own` of a mean over the epoch, as :func:`~lsa_lightning.utils.step_log.log_mean` logs it.

    Args:
        owner: see :func:`log_own`.
        module: the module that trains.
        name: the key.
        value: a scalar.
        batch_size: weight of the value.

    Raises:
        MisconfigurationException: see :func:`log_own`.
    """
    trainer = module.trainer
    if trainer.barebones:
        return
    refuse_others(owner, trainer, [name])
    log_mean(module, name, value, batch_size)
    _own(owner, trainer, name)


def refuse_others(owner: object, trainer: pl.Trainer, names: Iterable[str]) -> None:
    """Lightning keeps one value per key and mixes or replaces without a word: say so instead.

    Raises:
        MisconfigurationException: if somebody else than ``owner`` logs one of ``names``.
    """
    for metric in _metrics(trainer, names):
        if getattr(metric, "lsa_lightning_owner", None) != id(owner):
            msg = (
                f"expected nobody else to log {metric.meta.name!r}, which a callback of lsa_lightning logs, but "
                f"{metric.meta.fx} does: log that under another name, or give RobustValidation another prefix"
            )
            raise MisconfigurationException(msg)


def _own(owner: object, trainer: pl.Trainer, name: str) -> None:
    for metric in _metrics(trainer, [name]):
        metric.lsa_lightning_owner = id(owner)


def _metrics(trainer: pl.Trainer, names: Iterable[str]) -> list[Any]:
    """What is logged under these names in the current loop."""
    wanted = set(names)
    return [metric for metric in (trainer._results or {}).values() if metric.meta.name in wanted]
