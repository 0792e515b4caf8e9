"""What stands where in a configuration: the classes that a run folder may name without being trusted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What may stand at a place of a configuration.

    Attributes:
        what: it, in words.
        bases: by package, the classes that a class named there must be one of.
        arguments: name in :data:`KINDS` by argument that takes objects.
        rest: name of the kind of objects in all other arguments; None: those are data.
        builders: whether a function will do that builds a registered model of torchvision or timm.
        partial: whether it may be a partial, completed later.
        allows: whether an argument, by name and value, leads nowhere outside.
    """

    what: str
    bases: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = None
    builders: bool = False
    partial: bool = False
    allows: Callable[[str, Any], bool] = lambda name, value: True


def leads_to_no_weights(name: str, value: Any) -> bool:
    """Whether an argument of a model names no file and no repository: what lies there may be a pickle, or code.

    Example:
        >>> leads_to_no_weights("weights", "IMAGENET1K_V1"), leads_to_no_weights("checkpoint_path", "weights.pth")
        (True, False)
    """
    if name == "pretrained":
        return value is None or isinstance(value, bool)
    if name.startswith("weights"):  # in torchvision, the name of an entry of its own lists
        return value is None or bool(re.fullmatch(r"(\w+_Weights\.)?[A-Z0-9_]+", str(value)))
    if name == "model_name":
        return bool(re.fullmatch(r"[\w.-]+", str(value)))
    return value is None or not (name.startswith("pretrained_") or name in ("checkpoint_path", "cache_dir"))


_OURS = "lsa_lightning"
_ATTACKS = {"attack": "attack", "attacks": "attack", "analysis_attack": "attack", "input_space": "input space"}

KINDS = {
    "model": Kind(
        "a LightningModule",
        {_OURS: ("lightning.pytorch.LightningModule",)},
        {"optimizer": "optimizer", "scheduler": "scheduler"},
        rest="module",
    ),
    "module": Kind(
        "an nn.Module, or what builds a model in torchvision or timm",
        dict.fromkeys((_OURS, "torch.nn", "torchvision.models", "timm.models", "timm.layers"), ("torch.nn.Module",)),
        rest="module",
        builders=True,
        partial=True,
        allows=leads_to_no_weights,
    ),
    "optimizer": Kind(
        "an Optimizer", dict.fromkeys(("torch.optim", "timm.optim"), ("torch.optim.Optimizer",)), partial=True
    ),
    "scheduler": Kind(
        "a learning-rate scheduler",
        {
            "torch.optim.lr_scheduler": ("torch.optim.lr_scheduler.LRScheduler",),
            _OURS: ("lsa_lightning.models.PerStep",),
        },
        {"scheduler": "scheduler"},
        partial=True,
    ),
    "data": Kind(
        "a LightningDataModule",
        {_OURS: ("lightning.pytorch.LightningDataModule",)},
        {"dataset_cls": "data set", "augment": "augmentation"},
    ),
    "data set": Kind(  # of these the checksums are known; others read pickles from wherever data.root is
        "a data set of torchvision in the format of MNIST, CIFAR or SVHN",
        {"torchvision.datasets": tuple(f"torchvision.datasets.{name}" for name in ("MNIST", "CIFAR10", "SVHN"))},
    ),
    "augmentation": Kind("an Augmentation", {_OURS: ("lsa_lightning.data.Augmentation",)}),
    "measure": Kind("a ComparisonMeasure", {_OURS: ("lsa_lightning.measures.ComparisonMeasure",)}),
    "objective": Kind("an Objective", {_OURS: ("lsa_lightning.objectives.Objective",)}),
    "regularizer": Kind(
        "a LayerwiseRegularizer",
        {_OURS: ("lsa_lightning.LayerwiseRegularizer",)},
        {"measure": "measure", "schedule": "ramp"},
    ),
    "ramp": Kind(
        "a LinearRamp or a TrainingSchedule",
        {_OURS: ("lsa_lightning.regularizers.LinearRamp", "lsa_lightning.regularizers.TrainingSchedule")},
    ),
    "selector": Kind("a Selector", {_OURS: ("lsa_lightning.selectors.Selector",)}),
    "alarm": Kind("a CollapseAlarm", {_OURS: ("lsa_lightning.callbacks.CollapseAlarm",)}, {"signal": "signal"}),
    "signal": Kind("a Signal", {_OURS: ("lsa_lightning.callbacks.alarm.Signal",)}),
    "unlabelled": Kind(
        "Unlabelled inputs",
        {_OURS: ("lsa_lightning.unlabelled.Unlabelled",)},
        {"source": "source", "attack": "attack"},
    ),
    "source": Kind("a Source", {_OURS: ("lsa_lightning.unlabelled.Source",)}, {"loader": "data"}),
    "input space": Kind("an InputSpace", {_OURS: ("lsa_lightning.attacks.InputSpace",)}),
    "attack": Kind(
        "an Attack",
        {
            _OURS: ("lsa_lightning.attacks.Attack",),
            "torchattacks": ("torchattacks.attack.Attack",),  # these two are arguments of ExternalAttack
            "foolbox": ("foolbox.attacks.base.Attack",),
        },
        {**_ATTACKS, "measure": "measure", "regularizer": "regularizer"},
        partial=True,
    ),
    "callback": Kind(
        "a Callback",
        dict.fromkeys((_OURS, "lightning.pytorch.callbacks"), ("lightning.pytorch.Callback",)),
        {
            **_ATTACKS,
            "objective": "objective",
            "regularizer": "regularizer",
            "measure": "measure",
            "mvl": "selector",
            "alarm": "alarm",
            "unlabelled": "unlabelled",
        },
    ),
    "logger": Kind(
        "a Logger",
        dict.fromkeys((_OURS, "lightning.pytorch.loggers"), ("lightning.pytorch.loggers.Logger",)),
        allows=lambda name, value: name != "settings",  # of W&B; one of them is the server that the user's key goes to
    ),
    "trainer": Kind("a Trainer", {"lightning.pytorch": ("lightning.pytorch.Trainer",)}),
    "analysis": Kind(
        "an AnalysisStage",
        {_OURS: ("lsa_lightning.runs.stages.AnalysisStage",)},
        {**_ATTACKS, "measure": "measure"},
    ),
    "evaluation": Kind(
        "an EvaluationStage",
        {_OURS: ("lsa_lightning.runs.stages.EvaluationStage",)},
        {**_ATTACKS, "masking": "masking checks", "exact": "plane grid", "ceiling": "ceiling"},
    ),
    "plane grid": Kind("a PlaneGrid", {_OURS: ("lsa_lightning.evaluation.PlaneGrid",)}, {"input_space": "input space"}),
    "ceiling": Kind("a CeilingBound", {_OURS: ("lsa_lightning.evaluation.CeilingBound",)}),
    "masking checks": Kind(
        "MaskingChecks", {_OURS: ("lsa_lightning.masking.MaskingChecks",)}, {"input_space": "input space"}
    ),
}
"""Every kind by its name."""

JOB = {
    "data": "data",
    "model": "model",
    "callbacks": "callback",
    "logger": "logger",
    "trainer": "trainer",
    "analysis": "analysis",
    "evaluation": "evaluation",
}
"""Name of the kind by place, for all that a job of lsa-train makes objects from."""
