"""Passes that are added to a run: what they log, count or keep is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torchmetrics import Metric

from lsa_lightning.utils.attributes import attributes_put_back, kept_by, parts_of


@contextmanager
def off_the_record(module: pl.LightningModule) -> Iterator[None]:
    """What ``module`` logs inside is forgotten, its metrics count nothing, and its attributes are put back.

    Metrics are its parts, or in containers that it keeps; for attributes see
    :func:`~lsa_lightning.utils.attributes.attributes_put_back`.
    """
    own = {name: value for name, value in vars(module).items() if name == "log"}
    vars(module)["log"] = lambda *_, **__: None  # log_dict calls it too
    metrics = {metric: dict(vars(metric)) for metric in _metrics_of(module)}
    for metric in metrics:
        vars(metric).update({name: _copied(state) for name, state in metric.metric_state.items()})
    try:
        with attributes_put_back(module):
            yield
    finally:
        del vars(module)["log"]
        vars(module).update(own)
        for metric, before in metrics.items():
            vars(metric).update(before)


def _metrics_of(module: nn.Module) -> list[Metric]:
    """The metrics in a module, and in what it keeps."""
    parts = parts_of(module)
    for kept in [each for part in parts for each in kept_by(part) if isinstance(each, nn.Module)]:
        parts.extend(parts_of(kept))
    return list({id(part): part for part in parts if isinstance(part, Metric)}.values())


def _copied(state: Any) -> Any:
    return state.clone() if isinstance(state, Tensor) else list(state)
