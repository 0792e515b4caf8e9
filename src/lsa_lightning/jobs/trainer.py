"""The arguments of Lightning's Trainer, as options of ours."""

from __future__ import annotations

import inspect
import typing
from types import NoneType
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

TRAINER_OPTIONS = tuple(inspect.signature(pl.Trainer.__init__).parameters)[1:]
"""Names of the Trainer's arguments."""

_IN_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", list: "a list"}


def check_trainer(node: DictConfig) -> None:
    """Raise a ValueError for a number, a flag or a text in the place of another, which a Trainer notices late or never.

    Example:
        >>> check_trainer(OmegaConf.create({"max_epochs": "two"}))
        Traceback (most recent call last):
        ValueError: expected trainer.max_epochs to be an integer or null, got 'two'
    """
    hints = typing.get_type_hints(pl.Trainer.__init__)
    values: Any = OmegaConf.to_container(node)
    for name, value in values.items():
        allowed = _plain_types(hints.get(name))
        if allowed and not _is_one(value, allowed):
            known = [_IN_WORDS[kind] for kind in allowed if kind in _IN_WORDS]
            words = " or ".join([*known, *(["null"] if NoneType in allowed else [])])
            msg = f"expected trainer.{name} to be {words}, got {value!r}"
            raise ValueError(msg)


def _plain_types(hint: Any) -> list[type]:
    """The types that a hint allows; none where some of them are classes that Hydra makes."""
    kinds = [typing.get_origin(each) or each for each in (typing.get_args(hint) or (hint,))]
    return kinds if all(kind in (*_IN_WORDS, NoneType) for kind in kinds) else []


def _is_one(value: Any, allowed: list[type]) -> bool:
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, tuple(allowed)) or (isinstance(value, int) and float in allowed)
