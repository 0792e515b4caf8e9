"""Passes that are added to a run: what they log, count or keep is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torchmetrics import Metric

from lsa_lightning.utils.attributes import Attributes, parts_of


@contextmanager
def off_the_record(module: pl.LightningModule) -> Iterator[None]:
    """What ``module`` logs inside is forgotten, its metrics count nothing, and its attributes are put back.

    Metrics are its parts, or in containers that it keeps; for attributes see
    :class:`~lsa_lightning.utils.attributes.Attributes`.
    """
    parts = parts_of(module)
    attributes = Attributes(parts)
    own = {name: value for name, value in vars(module).items() if name == "log"}
    vars(module)["log"] = lambda *_, **__: None  # log_dict calls it too
    kept = [part for each in attributes.modules for part in parts_of(each)]
    metrics = {id(part): (part, dict(vars(part))) for part in (*parts, *kept) if isinstance(part, Metric)}.values()
    for metric, _ in metrics:
        vars(metric).update({name: _copied(state) for name, state in metric.metric_state.items()})
    try:
        yield
    finally:
        del vars(module)["log"]
        vars(module).update(own)
        attributes.put_back()
        for metric, before in metrics:
            vars(metric).update(before)


def _copied(state: Any) -> Any:
    return state.clone() if isinstance(state, Tensor) else list(state)
