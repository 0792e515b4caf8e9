"""Several runs side by side: those that differ only by seed, and what sets the others apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

from lsa_lightning.comparison.metrics import CLEAN, Metric, Spread, ceilings, measured
from lsa_lightning.runs.harmless import HARMLESS, ON_TRUST
from lsa_lightning.runs.read import Run
from lsa_lightning.utils.describe import eps_in_words

Seeds: TypeAlias = tuple[tuple[str, Any], ...]
"""What tells a run from its repetitions: each of its seeds with its key."""

_BESIDE_THE_POINT = tuple(entry for entry in HARMLESS if entry not in ON_TRUST)
"""Entries that say how a run was kept or went on, and where, not what it is."""

_NOT_COMPARED = ("seed", "seeds", "paths", "draw", "look_at", "save_examples", "model_table")
"""Entries at any depth that say which repetition a run is, where it lies, or what is shown of it."""

_PARTS_OF_METHODS = ("analysis", "callbacks", "method")

_MOST_ENTRIES = 4  # in a label

_METHOD = "method.name"

_TELLING = (
    "method",
    _METHOD,
    "regularizer.gamma",
    "measure._target_",
    "attack._target_",
    "objective._target_",
    "callbacks.atlr.mvl",
    "threat.eps",
    "data.train_size",
)
"""Entries that a label names rather than others which differ too."""


class Flags(NamedTuple):
    """What the masking checks say of some runs.

    Attributes:
        raised: number of runs with a flag.
        checked: number of runs that were checked.
        runs: number of all.
    """

    raised: int
    checked: int
    runs: int

    def __str__(self) -> str:
        return f"{self.raised}/{self.checked}" if self.checked else "not checked"


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

    @property
    def repetitions(self) -> int:
        """Number of different seeds."""
        return len({seeds_of(run.config) for run in self.runs})

    @property
    def repeated(self) -> list[Run]:
        """Runs whose seeds another run of the group has too."""
        counts = Counter(seeds_of(run.config) for run in self.runs)
        return [run for run in self.runs if counts[seeds_of(run.config)] > 1]

    def values(self, metric: Metric) -> dict[Seeds, float]:
        """The metric by seeds, the mean where they were run more than once; empty if a run was not measured so."""
        found: dict[Seeds, list[float]] = {}
        for seeds, values in self._measured:
            if metric not in values:
                return {}
            found.setdefault(seeds, []).append(values[metric])
        return {seeds: fmean(values) for seeds, values in found.items()}

    def ceiling(self, metric: Metric) -> Spread | None:
        """What no classifier exceeds on the test samples, over the seeds; None where a run does not know it."""
        values = self.ceilings(metric)
        return Spread.of([*values.values()]) if values else None

    def ceilings(self, metric: Metric) -> dict[Seeds, float]:
        """The same by seeds; empty where a run does not know it."""
        values = {seeds: own.get(metric) for seeds, own in self._ceilings}
        known = {seeds: value for seeds, value in values.items() if value is not None}
        return known if len(known) == len(values) else {}

    @property
    def flags(self) -> Flags:
        """How many of the runs the masking checks flagged."""
        checked = [run.summary.masking for run in self.runs if run.summary.masking]
        raised = sum(any(flag.raised for flag in flags.values()) for flags in checked)
        return Flags(raised, len(checked), len(self.runs))

    @cached_property
    def _ceilings(self) -> list[tuple[Seeds, dict[Metric, float]]]:
        return [(seeds_of(run.config), ceilings(run)) for run in self.runs]

    @cached_property
    def _measured(self) -> list[tuple[Seeds, dict[Metric, float]]]:
        """Seeds and metrics of each run; they are asked for once per metric."""
        return [(seeds_of(run.config), measured(run)) for run in self.runs]

    def spread(self, metric: Metric) -> Spread | None:
        """The metric over the seeds; None if a run was not measured so."""
        values = self.values(metric)
        return Spread.of(list(values.values())) if values else None

    def accuracy(self, attack: str) -> dict[float, Spread]:
        """Accuracy in percent by eps, clean data first, at which every run was measured; empty without this attack."""
        metrics = [m for m in measured(self.runs[0]) if m.attack in ("", attack) and not m.is_score]
        if metrics in ([], [CLEAN]):
            return {}
        spreads = {metric.eps[0]: self.spread(metric) for metric in metrics}
        return {eps: spread for eps, spread in spreads.items() if spread is not None}

    def rg_score(self, attack: str) -> Spread | None:
        """R&G; None where a run was not measured under this attack, or at other radii."""
        score = next((m for m in measured(self.runs[0]) if m.is_score and m.attack == attack), None)
        return None if score is None else self.spread(score)


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Put runs together whose configurations differ only by seed, and that were measured alike.

    What a run was named, where it lies and what it logged to does not set it apart; nor does a regularizer in the
    configuration of a run that has none. Runs of other data, of another number of test samples or of other radii are
    never put together.

    Args:
        runs: at least one.

    Returns:
        The groups, in the order of their first runs, labelled by what differs: the name, and among groups of one name
        the method, the data, up to four entries of the configuration (of more, the fewest that tell them apart), the
        number of test samples, else the folder.
    """
    parts: list[tuple[Any, list[Run]]] = []
    for run in runs:
        key = comparable(run.config), measured(run).keys(), measured_on(run)
        same = next((members for other, members in parts if other == key), None)
        if same is None:
            parts.append((key, [run]))
        else:
            same.append(run)
    labels = _labels([members[0] for _, members in parts])
    return [Group(label, members) for label, (_, members) in zip(labels, parts, strict=True)]


def share_samples(groups: Iterable[Group], metric: Metric) -> bool:
    """Whether runs with the same seeds have the same ceiling: else they were not measured on the same samples."""
    found: dict[Seeds, set[float]] = {}
    for group in groups:
        for seeds, ceiling in group.ceilings(metric).items():
            found.setdefault(seeds, set()).add(round(ceiling, 6))
    return all(len(values) == 1 for values in found.values())


def cautions(groups: Sequence[Group]) -> list[str]:
    """What must be known before these groups are compared, one sentence each."""
    runs = [run for group in groups for run in group.runs]
    tables = [run.summary.evaluation for run in runs if run.summary.evaluation is not None]
    found = []
    data = list(dict.fromkeys(run.summary.trained.get("data") for run in runs))
    if len(data) > 1:
        names = ", ".join(map(str, data))
        found.append(f"These runs are of different data, {names}: their accuracies and layers cannot be compared.")
    samples = sorted({table.samples for table in tables})
    if len(samples) > 1:
        numbers = ", ".join(map(str, samples))
        found.append(f"These runs were measured on test sets of different size, {numbers} samples.")
    if len(data) == len(samples) == 1 and not all(share_samples(groups, metric) for metric in measured(runs[0])):
        found.append("These runs were measured on different test samples: what can be right of them differs.")
    radii = {tuple(table.rg_eps or table.eps) for table in tables}
    if len(radii) > 1 or len({table.norm for table in tables} - {None}) > 1:
        where = "at different eps or in different norms"
        found.append(f"These runs were measured {where}, so their R&G cannot be compared.")
    for group in groups:
        started = {run.config.get("ckpt_path") for run in group.runs}
        if len(started) > 1:
            files = ", ".join(sorted(map(str, started)))
            found.append(f"The runs of {group.label} started from different checkpoints: {files}.")
        if group.repeated:
            folders = ", ".join(str(run.folder) for run in group.repeated)
            found.append(f"{group.label} was run more than once with one seed, of which the mean counts: {folders}.")
    return found


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
    _collect([comparable(run.config) for run in runs], "", rows)
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


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What sets a run apart: the configuration without seeds, folders, loggers, and a regularizer that is not used."""
    paths, callbacks = config.get("paths"), config.get("callbacks")
    folder = paths.get("output_dir") if isinstance(paths, dict) else None
    left_out = list(_BESIDE_THE_POINT)
    if isinstance(callbacks, dict) and not any(isinstance(c, dict) and "regularizer" in c for c in callbacks.values()):
        left_out.append("regularizer")

    def strip(node: Any, place: str = "") -> Any:
        if isinstance(node, dict):
            own = {key: f"{place}{key}" for key in node if key not in _NOT_COMPARED}
            return {key: strip(node[key], f"{name}.") for key, name in own.items() if name not in left_out}
        if isinstance(node, list):
            return [strip(value, f"{place}[].") for value in node]
        return node.replace(folder, "RUN") if folder and isinstance(node, str) else node

    own = dict(strip(dict(config)))
    # Which checkpoint training started from differs from seed to seed; whether it did sets a run apart.
    if own.pop("ckpt_path", None) is not None:
        own["ckpt_path"] = "given"
    return own


def seeds_of(config: Mapping[str, Any]) -> Seeds:
    """The seeds of a run, by dotted key, but for those that follow them and those of parts that methods differ in."""
    found: list[tuple[str, Any]] = []

    def collect(node: Any, key: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if name == "seed" and value is not None:
                found.append((f"{key}{name}", value))
            collect(value, f"{key}{name}.")

    collect({name: value for name, value in config.items() if name not in _PARTS_OF_METHODS}, "")
    return tuple(found)


def measured_on(run: Run) -> tuple[str | None, int | None]:
    """Data and number of samples that a run was measured on."""
    table = run.summary.evaluation
    return run.summary.trained.get("data"), None if table is None else table.samples


def _labels(runs: Sequence[Run]) -> list[str]:
    """A label for each run: its name, if there are others, and what tells it from those of the same label so far."""
    names = [run.name for run in runs]
    labels = [""] * len(runs) if len(set(names)) == 1 else list(names)
    for words in (_methods, _data, _entries, _test_sets, _folder_names, _folders):
        for label in [label for label, count in Counter(labels).items() if count > 1]:
            tied = [i for i, other in enumerate(labels) if other == label]
            found = words([runs[i] for i in tied])
            if len(set(found)) > 1:
                for i, word in zip(tied, found, strict=True):
                    labels[i] = ", ".join(part for part in (label, word) if part)
    return [label or name for label, name in zip(labels, names, strict=True)]


def _methods(runs: Sequence[Run]) -> list[str]:
    return [str(run.summary.trained.get("method", "")) for run in runs]


def _data(runs: Sequence[Run]) -> list[str]:
    return [str(run.summary.trained.get("data", "")) for run in runs]


def _entries(runs: Sequence[Run]) -> list[str]:
    """The entries that differ; of many, those that tell the runs apart."""
    differences = config_differences(runs)
    if len(differences) > _MOST_ENTRIES:
        differences = _fewest(differences)
    rows = [[_in_words(key, value) for value in values] for key, values in differences.items()]
    return [", ".join(words) for words in zip(*rows, strict=True)]


def _fewest(differences: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """As few entries as tell apart what can be told apart by them, at most four."""
    order = sorted(differences, key=lambda key: (_TELLING.index(key) if key in _TELLING else 99, key.count(".")))
    chosen: list[str] = []

    def told_apart(keys: Sequence[str]) -> int:
        return len({repr(values) for values in zip(*(differences[key] for key in keys), strict=True)})

    while len(chosen) < _MOST_ENTRIES:
        best = max(order, key=lambda key: told_apart([*chosen, key]))  # of equals the first
        if chosen and told_apart([*chosen, best]) == told_apart(chosen):
            break
        chosen.append(best)
    return {key: differences[key] for key in chosen}


def _in_words(key: str, value: Any) -> str:
    """``gamma=0.1``; of a section, the name of what it makes."""
    if key in ("method", _METHOD):
        return f"method={(value.get('name') if isinstance(value, dict) else value) or 'default'}"
    if value is None:
        return f"no {_leaf(key)}"
    if isinstance(value, dict):
        return f"{_leaf(key)}={_leaf(str(value['_target_']))}" if "_target_" in value else _leaf(key)
    if isinstance(value, float) and _leaf(key) == "eps":
        return f"eps={eps_in_words(value)}"
    return f"{_leaf(key)}={_leaf(value) if key.endswith('._target_') else value}"


def _test_sets(runs: Sequence[Run]) -> list[str]:
    sizes = [run.summary.evaluation.samples if run.summary.evaluation is not None else 0 for run in runs]
    return [f"{size} test samples" if size else "not evaluated" for size in sizes]


def _folder_names(runs: Sequence[Run]) -> list[str]:
    return [run.folder.name for run in runs]


def _folders(runs: Sequence[Run]) -> list[str]:
    return [str(run.folder) for run in runs]


def _leaf(key: str) -> str:
    """``gamma`` of ``regularizer.gamma``; of a ``_target_``, the name of what it makes."""
    return key.removesuffix("._target_").rpartition(".")[2]
