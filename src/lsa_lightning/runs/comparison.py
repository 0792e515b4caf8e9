"""Several runs side by side: those that differ only by seed, and what sets the others apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lsa_lightning.runs.read import Run


class Spread(NamedTuple):
    """Mean and sample standard deviation of a number over seeds; ``std`` is None for a single one."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only by seed.

    Attributes:
        label: what sets it apart from the other groups, in short.
        runs: one or more.
    """

    label: str
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        """Seed of each run."""
        return [run.summary.seed for run in self.runs]

    def accuracy(self, attack: str) -> dict[float, Spread]:
        """Accuracy in percent by eps, for the eps at which every run was measured; empty without this attack."""
        tables = [run.summary.evaluation for run in self.runs]
        rows = [dict(zip(t.eps, t.accuracy[attack], strict=True)) for t in tables if t and attack in t.accuracy]
        if len(rows) < len(tables):
            return {}
        return {eps: Spread.of([row[eps] for row in rows]) for eps in rows[0] if all(eps in row for row in rows)}

    def rg_score(self, attack: str) -> Spread | None:
        """R&G; None where a run was not measured under this attack."""
        tables = [run.summary.evaluation for run in self.runs]
        scores = [table.rg_score[attack] for table in tables if table and attack in table.accuracy]
        return Spread.of(scores) if len(scores) == len(tables) else None


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Put runs together whose configurations differ only by seed and by the folder they were written to.

    Args:
        runs: at least one.

    Returns:
        The groups, in the order of their first runs, labelled by name and, among groups of one name, by up to three
        entries of the configuration that differ, else by folder.
    """
    parts: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        config = _comparable(run.config)
        same = next((members for other, members in parts if other == config), None)
        if same is None:
            parts.append((config, [run]))
        else:
            same.append(run)
    firsts = [members[0] for _, members in parts]
    labels = [_label(first, firsts) for first in firsts]
    return [
        Group(label if labels.count(label) == 1 else f"{label}, {members[0].folder}", members)
        for label, (_, members) in zip(labels, parts, strict=True)
    ]


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Entries of the configurations that are not the same in all ``runs``, seeds and folders left out.

    Args:
        runs: at least one.

    Returns:
        By dotted key, one value per run; None where a run has no such entry. A section that some runs lack is one
        entry. Of entries of one name that vary alike, as those that take their value from another one, the least
        nested stands for all.
    """
    rows: dict[str, list[Any]] = {}
    _collect([_comparable(run.config) for run in runs], "", rows)
    kept: dict[str, list[Any]] = {}
    for key in sorted(rows, key=lambda key: key.count(".")):
        if not any(_leaf(other) == _leaf(key) and values == rows[key] for other, values in kept.items()):
            kept[key] = rows[key]
    return {key: values for key, values in rows.items() if key in kept}


def _collect(nodes: Sequence[Any], key: str, rows: dict[str, list[Any]]) -> None:
    """Walk mappings that all nodes have; whatever else differs is a row."""
    if all(isinstance(node, dict) for node in nodes):
        for name in dict.fromkeys(name for node in nodes for name in node):
            _collect([node.get(name) for node in nodes], f"{key}.{name}" if key else str(name), rows)
    elif any(node != nodes[0] for node in nodes):
        rows[key] = list(nodes)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without seeds and without the run folder."""
    folder = config.get("paths", {}).get("output_dir")

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: strip(value) for key, value in node.items() if key not in ("seed", "seeds", "paths")}
        if isinstance(node, list):
            return [strip(value) for value in node]
        return node.replace(folder, "RUN") if folder and isinstance(node, str) else node

    return dict(strip(config))


def _label(run: Run, others: Sequence[Run]) -> str:
    """The name, and what sets ``run`` apart from those of the same name."""
    namesakes = [other for other in others if other.name == run.name]
    if len(namesakes) == 1:
        return run.name
    differences = config_differences(namesakes)
    if len(differences) > 3 or any(isinstance(value, dict) for values in differences.values() for value in values):
        return f"{run.name}, {run.folder.name}"
    position = namesakes.index(run)
    return ", ".join([run.name, *(f"{_leaf(key)}={values[position]}" for key, values in differences.items())])


def _leaf(key: str) -> str:
    """``gamma`` of ``regularizer.gamma``; of a ``_target_``, the name of what it makes."""
    return key.removesuffix("._target_").rpartition(".")[2]
