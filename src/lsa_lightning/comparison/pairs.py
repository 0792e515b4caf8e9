"""What the regularizer changes: each AT-LR beside the same adversarial training without it, seed by seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lsa_lightning.callbacks import ATLR, AdversarialTraining
from lsa_lightning.comparison.groups import Group, comparable, config_differences, measured_on, seeds_of
from lsa_lightning.comparison.metrics import Metric, Spread, headline
from lsa_lightning.evaluation.robustness import EXACT

_OF_ATLR = inspect.signature(ATLR).parameters.keys() - inspect.signature(AdversarialTraining).parameters.keys()

_NOT_TRAINED_BY = ("name", "regularizer", "measure", "method", "analysis", "callbacks")
"""Entries that the training without the regularizer does not depend on, and the callbacks, of which some count."""

_SPECTATORS = ("ReportLogger", "ProgressBar", "TrainingProgress", "ModelTable")
"""How the names of callbacks end that leave the model alone."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A group trained with the regularizer, and its base.

    Attributes:
        group: trained with the regularizer.
        base: the same without it: data, model, attack, objective and all else are equal; None if there is none.
    """

    group: Group
    base: Group | None

    @property
    def seeds(self) -> list[int]:
        """The seeds that both were run with."""
        theirs = set() if self.base is None else {seeds_of(run.config) for run in self.base.runs}
        return list(dict.fromkeys(run.summary.seed for run in self.group.runs if seeds_of(run.config) in theirs))

    @property
    def base_label(self) -> str:
        """The base's label; empty without one."""
        return "" if self.base is None else self.base.label

    @property
    def worst_case(self) -> list[Metric]:
        """The accuracy at the radius of training under the attack that the base stands worst; empty without one.

        Of equal ones it is that of ``exact``, which no attack can lower.
        """
        metrics = [metric for metric in headline(self.group.runs) if metric.attack and not metric.is_score]
        spreads = {} if self.base is None else {metric: self.base.spread(metric) for metric in metrics}
        means = {metric: spread.mean for metric, spread in spreads.items() if spread is not None}
        return sorted(means, key=lambda metric: (means[metric], metric.attack != EXACT))[:1]

    def difference(self, metric: Metric) -> Spread | None:
        """The metric of the group minus that of its base, over the seeds of both; None where there is no pair."""
        if self.base is None:
            return None
        ours, theirs = self.group.values(metric), self.base.values(metric)
        differences = [value - theirs[seeds] for seeds, value in ours.items() if seeds in theirs]
        return Spread.of(differences) if differences else None


def pair_with_bases(groups: Sequence[Group]) -> list[Pair]:
    """Each group trained with the regularizer, with its base.

    A group is trained with the regularizer if the callback that trains it, the one with an attack and an objective,
    has a regularizer. Its base has one without; all else that training depends on, and the test set, are the same. Of
    several bases it is the one whose whole configuration is nearest.
    """
    plain = {group: _plain(group) for group in groups}
    bases = [group for group in groups if plain[group] is not None and not _is_regularized(group)]
    pairs = []
    for group in filter(_is_regularized, groups):
        same = [base for base in bases if plain[base] == plain[group]]
        distances = [len(config_differences([base.runs[0], group.runs[0]])) for base in same]
        pairs.append(Pair(group, same[distances.index(min(distances))] if same else None))
    return pairs


def _is_regularized(group: Group) -> bool:
    return "regularizer" in _callbacks(group).get(_trainer_of(group), {})


def _callbacks(group: Group) -> dict[str, dict[str, Any]]:
    """The callbacks that shape the model."""
    nodes = comparable(group.runs[0].config).get("callbacks") or {}
    given = {name: node for name, node in nodes.items() if isinstance(node, dict)}
    return {name: node for name, node in given.items() if not str(node.get("_target_")).endswith(_SPECTATORS)}


def _trainer_of(group: Group) -> str:
    """The name of the callback that trains; empty in normal training."""
    return next((name for name, node in _callbacks(group).items() if {"attack", "objective"} <= node.keys()), "")


def _plain(group: Group) -> Any:
    """All that the training without the regularizer depends on, and the test set; None for normal training."""
    callbacks = _callbacks(group)
    training = callbacks.pop(_trainer_of(group), None)
    if training is None:
        return None
    left_out = {"_target_", "alarm", *_OF_ATLR}  # an alarm only watches
    arguments = {key: value for key, value in training.items() if key not in left_out and value is not None}
    config = comparable(group.runs[0].config)
    others = {key: value for key, value in config.items() if key not in _NOT_TRAINED_BY}
    return others, callbacks, arguments, measured_on(group.runs[0])
