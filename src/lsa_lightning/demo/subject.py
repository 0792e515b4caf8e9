"""What a page is about: a trained model, the kind of its inputs, and how it may be attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from torch import nn

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.demo.inputs import Canvas, Plane
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.runs.checkpoint import TrainedRun, split_loader
from lsa_lightning.utils.batch import read_batch

_POINTS = 200
"""Points of the data that a plane shows."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to try out.

    Attributes:
        name: what the page calls it.
        model: maps inputs to logits.
        inputs: what people give, as an input of the model.
        threat: norm, bounds, and the radius that the page begins with.
        largest_eps: the largest radius that the page offers, >= that of the threat model.
        measure: compares the layers' representations; None: the relative error.
    """

    name: str
    model: nn.Module
    inputs: Plane | Canvas
    threat: ThreatModel
    largest_eps: float
    measure: ComparisonMeasure | None = None

    @classmethod
    def of(cls, run: TrainedRun) -> Subject:
        """The model of a run, within the threat model of its training; its data is read unless it has images.

        Raises:
            ValueError: if its inputs are neither images of one or three channels nor points of a plane.
        """
        threat = ThreatModel(**{str(key): value for key, value in run.threat.items()})
        return cls(
            name=str(run.config.get("name", "model")),
            model=run.model,
            inputs=_inputs(run.data, threat),
            threat=threat,
            largest_eps=max([threat.eps, *run.eval_eps]),
            measure=None if run.measure is None else instantiate(run.measure, _convert_="all"),
        )


def _inputs(data: pl.LightningDataModule, threat: ThreatModel) -> Plane | Canvas:
    shape: Sequence[int] | None = getattr(data, "image_shape", None)
    if shape is None:
        x, y = read_batch(next(iter(split_loader(data, "test"))))
        if x.shape[1:] == (2,):
            if strange := sorted({*y.flatten().tolist()} - {0, 1}):
                msg = f"expected points [2] of a plane in two classes, 0 and 1, got labels {strange[:5]} too"
                raise ValueError(msg)
            return Plane(x[:_POINTS].cpu(), y[:_POINTS].flatten().to("cpu", torch.int64))
        shape = x.shape[1:]
    if len(shape) != 3 or shape[0] not in (1, 3):
        msg = f"expected inputs that are images [1 or 3, H, W] or points [2] of a plane, got {list(shape)}"
        raise ValueError(msg)
    return Canvas(tuple(shape), threat.bounds)
