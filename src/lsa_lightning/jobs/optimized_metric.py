"""The figure of a job that a sweeper optimises."""

from __future__ import annotations

import math

from lsa_lightning.runs.stages import EvaluationStage
from lsa_lightning.runs.summary import RunSummary
from lsa_lightning.utils.checks import instance, or_none


def check_optimized_metric(name: str | None, evaluation: EvaluationStage | None) -> None:
    """Raise a ValueError, before training, for a metric that no stage of the job measures.

    That of a stage that was left out is allowed, since any sweep may leave stages out; it is NaN then.
    """
    or_none(instance, "lsa-train", "optimized_metric", name, str, what="a name")
    evaluated = name is not None and name.startswith(("accuracy/", "rg_score/"))
    if name is None or name.startswith("val/") or (evaluated and evaluation is None):
        return
    known = ["mu", "sigma", *([] if evaluation is None else evaluation.metrics)]
    if name not in known:
        msg = f"expected optimized_metric to be one of {', '.join(known)}, a val/... of training, or null, got {name!r}"
        raise ValueError(msg)


def optimized(summary: RunSummary, name: str | None) -> float:
    """The metric that a sweeper optimises; NaN for none, and for that of a stage that was left out.

    Raises:
        ValueError: for a ``val/...`` that was not logged.
    """
    metrics = summary.metrics
    if name is not None and name.startswith("val/") and name not in metrics:
        logged = [key for key in metrics if key.startswith("val/")]
        msg = f"expected optimized_metric to be among what validation logged, {', '.join(logged)}, got {name!r}"
        raise ValueError(msg)
    return metrics.get(name, math.nan) if name is not None else math.nan
