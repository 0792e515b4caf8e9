"""The pictures of the page that compares runs, drawn here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from lsa_lightning.comparison.groups import Group, measured_on
from lsa_lightning.comparison.metrics import CLEAN, Metric, Spread, headline, measured, training_eps
from lsa_lightning.comparison.pairs import Pair
from lsa_lightning.comparison.results import Results
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.pages.pictures import Picture, drawn
from lsa_lightning.plotting import plot_difference_curves, plot_differences, plot_mean_accuracy, plot_rg_scores
from lsa_lightning.plotting.style import shown
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.stages import unit_in_words

T = TypeVar("T")

_MOST_LINES = 10  # in one figure; more hide one another


def pictures_of_results(results: Results, attacks: Sequence[str]) -> list[Picture]:
    """What the regularizer changes; R&G and accuracy over eps of each method, one figure per test set."""
    pictures = _difference_pictures(results)
    paired = {group for pair in results.pairs if pair.seeds for group in (pair.group, pair.base)}  # drawn above
    parts: dict[tuple[str | None, int | None], list[Group]] = {}
    for group in results.groups:
        if group.runs[0].summary.evaluation is not None:
            parts.setdefault(measured_on(group.runs[0]), []).append(group)
    for (data, samples), groups in parts.items():
        where = "" if len(parts) == 1 else f", {samples} samples of {str(data).rpartition('.')[2]}"
        pictures += _pictures_of_groups(groups, attacks, where, with_curves=not paired.issuperset(groups))
    return pictures


def _pictures_of_groups(
    groups: Sequence[Group], attacks: Sequence[str], where: str, with_curves: bool
) -> list[Picture]:
    """R&G and accuracy over eps of groups that were measured on the same samples, with 95 % intervals."""
    scores: dict[str, dict[str, Spread]] = {}
    for group in groups:
        row = {attack: score for attack in attacks if (score := group.rg_score(attack)) is not None}
        if row:
            scores[_drawable(group.label)] = row
    if not scores:
        return []
    over_seeds = any(score.half is not None for row in scores.values() for score in row.values())
    note = " Mean over the seeds, with its 95 % interval by Student's t." if over_seeds else ""
    runs = [run for group in groups for run in group.runs]
    number = common({group.repetitions for group in groups})
    seeds = "over seeds" if number is None else f"over {number} seeds"
    most = common({table.rg_max for table in _tables(runs)})
    figure = plot_rg_scores(
        {label: {attack: score.mean for attack, score in row.items()} for label, row in scores.items()},
        errors=_halves(scores) if over_seeds else None,
        bars=f"95 % interval {seeds}" if over_seeds else None,
        most=most,
        ceiling=common({table.ceiling.rg_score if table.ceiling else None for table in _tables(runs)}),
    )
    pictures = [drawn(f"R&G of each method{where}", f"Sum of the accuracies over eps.{note}", figure)]
    for attack in attacks if with_curves else ():
        curves = {_drawable(g.label): _curve(g, attack, over_seeds) for g in groups if g.rg_score(attack)}
        best = sorted(curves, key=lambda label: scores[label][attack].mean, reverse=True)[:_MOST_LINES]
        only = f" Only the {_MOST_LINES} methods of highest R&G are drawn." if len(curves) > _MOST_LINES else ""
        if best:
            lines = {label: curve for label, curve in curves.items() if label in best}
            samples = common({table.samples for table in _tables(runs)})
            bars = f"95 % interval of the mean {seeds}" if over_seeds else f"95 % interval, {samples} samples"
            figure = plot_mean_accuracy(lines, attack=attack, bars=bars, **_circumstances(runs))
            title = f"Accuracy over eps under {attack}{where}"
            pictures.append(drawn(title, f"Accuracy on the test set.{note}{only}", figure))
    return pictures


def _halves(scores: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, float]]:
    """Half widths of the intervals."""
    return {label: {attack: score.half_or_nan for attack, score in row.items()} for label, row in scores.items()}


def _circumstances(runs: Sequence[Run]) -> dict[str, Any]:
    """What the axes and marks of curves say, as far as it is the same for all runs."""
    return {
        "training_eps": common({training_eps(run) for run in runs} - {None}),
        "norm": common({table.norm for table in _tables(runs)}),
        "unit": common({_unit(run) for run in runs}),
    }


def _tables(runs: Iterable[Run]) -> list[RobustnessTable]:
    return [run.summary.evaluation for run in runs if run.summary.evaluation is not None]


def _curve(group: Group, attack: str, over_seeds: bool) -> dict[float, tuple[float, tuple[float, float] | None]]:
    """Accuracy by eps, with the interval over the seeds, or else that of the only run's test samples."""
    table = group.runs[0].summary.evaluation
    if over_seeds or table is None:
        return {eps: (spread.mean, spread.interval) for eps, spread in group.accuracy(attack).items()}
    return dict(zip(table.eps, zip(table.accuracy[attack], table.intervals[attack], strict=True), strict=True))


def _unit(run: Run) -> str | None:
    """What radii are measured in, as far as the threat model tells."""
    threat = run.config.get("threat")
    return unit_in_words(threat["bounds"]) if isinstance(threat, dict) and "bounds" in threat else None


def known_norms(results: Results) -> set[str]:
    """The different norms; tables of before 0.1.0 do not tell theirs."""
    return {table.norm for table in _tables(results.runs) if table.norm is not None}


def _difference_pictures(results: Results) -> list[Picture]:
    """Forest plots of the paired differences, accuracies and R&G apart, since their scales are; and over eps."""
    found = []
    for what, unit, is_score in (("accuracy", "percentage points", False), ("R&G", "sum of percentage points", True)):
        metrics = [metric for metric in headline(results.runs) if metric.is_score == is_score]
        spreads = {_pair_label(pair): _differences(pair, metrics) for pair in results.pairs}
        rows = {label: {m.title: (s.mean, s.half) for m, s in row.items()} for label, row in spreads.items() if row}
        if rows:
            note, bars = _said_of([spread for row in spreads.values() for spread in row.values()])
            caption = f"Difference in {what} of each AT-LR to the same training without the regularizer: {note}"
            words = f"difference in {what} ({unit});\nright of 0: better;\nbars: {bars}"
            figure = plot_differences(rows, xlabel=words)
            found.append(drawn(f"Paired differences in {what}", caption, figure))
    return found + _differences_over_eps([pair for pair in results.pairs if pair.seeds])


def _differences_over_eps(pairs: Sequence[Pair]) -> list[Picture]:
    """The paired differences under the attack that each base stands worst, at all radii."""
    attacks = {pair: pair.worst_case[0].attack for pair in pairs[:_MOST_LINES] if pair.worst_case}
    spreads = {pair: _differences(pair, _at_all_eps(pair, attack)) for pair, attack in attacks.items()}
    if not spreads:
        return []
    curves = {
        f"{_pair_label(pair)}\nunder {attacks[pair]}": {m.eps[0]: (s.mean, s.interval) for m, s in row.items()}
        for pair, row in spreads.items()
    }
    note, bars = _said_of([spread for row in spreads.values() for spread in row.values()])
    runs = [run for pair in attacks for run in pair.group.runs]
    figure = plot_difference_curves(curves, bars=bars, **_circumstances(runs))
    caption = f"Accuracy of each AT-LR minus that of the same training without the regularizer, at each eps: {note}"
    return [drawn("Paired differences over eps", caption, figure)]


def _at_all_eps(pair: Pair, attack: str) -> list[Metric]:
    return [m for m in measured(pair.group.runs[0]) if m == CLEAN or (m.attack == attack and not m.is_score)]


def _differences(pair: Pair, metrics: Iterable[Metric]) -> dict[Metric, Spread]:
    return {metric: spread for metric in metrics if (spread := pair.difference(metric)) is not None}


def _pair_label(pair: Pair) -> str:
    return _drawable(f"{pair.group.label} minus {pair.base_label}")


def _said_of(differences: Sequence[Spread]) -> tuple[str, str]:
    """What the caption and the axis say of differences, of which single ones have no interval."""
    several = [spread.n for spread in differences if spread.interval is not None]
    single = "a single pair, which has no interval"
    if not several:
        return f"{single}.", "none, a single pair"
    number = f"{several[0]} pairs" if len(set(several)) == 1 else "pairs"
    note = (
        "mean over the pairs of one seed, with its 95 % interval by Student's t. An interval that crosses the line of "
        "no difference is compatible with no difference."
    )
    hollow = f" A point without an interval is {single}." if len(several) < len(differences) else ""
    return note + hollow, f"95 % interval of the mean, {number}"


def common(values: set[T]) -> T | None:
    """The only value, if there is one alone."""
    return next(iter(values)) if len(values) == 1 else None


def _drawable(label: str) -> str:
    """``label`` in lines of 22 characters, as it stands in a figure."""
    return shown(textwrap.fill(label, 22))
