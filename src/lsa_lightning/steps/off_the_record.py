"""Passes that are added to a run: what they log, count or keep is forgotten."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torchmetrics import Metric


@contextmanager
def off_the_record(module: pl.LightningModule) -> Iterator[None]:
    """What ``module`` logs inside is forgotten, its metrics count nothing, and its plain attributes are put back.

    Those are numbers, texts, tensors (the same ones, whatever is written into them), and what lists, dicts, sets and
    deques hold, as the outputs of steps that are kept for the end of an epoch.
    """
    own = {name: value for name, value in vars(module).items() if name == "log"}
    vars(module)["log"] = lambda *_, **__: None  # log_dict calls it too
    metrics = {metric: dict(vars(metric)) for metric in _metrics_of(module)}
    for metric in metrics:
        vars(metric).update({name: _copied(state) for name, state in metric.metric_state.items()})
    plain = {name: value for name, value in vars(module).items() if _is_plain(name, value)}
    held = {name: copy.copy(value) for name, value in plain.items() if isinstance(value, _CONTAINERS)}
    try:
        yield
    finally:
        del vars(module)["log"]
        vars(module).update(own)
        for metric, before in metrics.items():
            vars(metric).update(before)
        for name in [name for name, value in vars(module).items() if name not in plain and _is_plain(name, value)]:
            del vars(module)[name]
        vars(module).update(plain)
        for name, content in held.items():
            plain[name].clear()
            (plain[name].extend if isinstance(content, list | deque) else plain[name].update)(content)


_CONTAINERS = (list, dict, set, deque)


def _is_plain(name: str, value: Any) -> bool:
    """Whether an attribute is a user's own, and of a kind that can be put back."""
    kinds = (int, float, str, Tensor, type(None))
    return name not in _OF_ANY_MODULE and (isinstance(value, kinds) or type(value) in _CONTAINERS)


_OF_ANY_MODULE = frozenset(vars(pl.LightningModule())) | {"log", "_log_hyperparams", "_hparams", "_hparams_initial"}


def _metrics_of(module: nn.Module) -> list[Metric]:
    """The metrics in a module; in each step, so it goes through its parts without their names."""
    parts, seen, found = [module], {id(module)}, []
    while parts:
        part = parts.pop()
        if isinstance(part, Metric):
            found.append(part)
        new = [child for child in part._modules.values() if child is not None and id(child) not in seen]
        seen.update(map(id, new))
        parts.extend(new)
    return found


def _copied(state: Any) -> Any:
    return state.clone() if isinstance(state, Tensor) else list(state)
