"""Figures of accuracies and of the R&G score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import bar_styles, eps_in_words, legend_above, line_styles, new_axes

Interval = tuple[float, float]
"""Its low and its high end."""


def plot_accuracy(
    eps: Sequence[float],
    accuracy: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Interval]],
    *,
    samples: int,
    training_eps: float | None = None,
    norm: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Accuracy over eps, one line per attack, with the interval of each accuracy.

    Args:
        eps: the columns, rising.
        accuracy: by the name in the legend, one accuracy in percent per column; at least one row.
        intervals: low and high end of the 95 % interval of each accuracy, laid out as ``accuracy``.
        samples: number of samples behind each accuracy.
        training_eps: radius at which the model was trained, marked by a vertical line; None: no line.
        norm: norm of the ball that eps is the radius of, for the axis.
        unit: what eps is measured in, for the axis.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no row.
    """
    if not accuracy:
        msg = "expected accuracies under at least one attack, got none"
        raise ValueError(msg)
    curves = {
        name: dict(zip(eps, zip(row, intervals[name], strict=True), strict=True)) for name, row in accuracy.items()
    }
    bars = f"95 % interval, {samples} samples"
    return plot_mean_accuracy(curves, bars=bars, training_eps=training_eps, norm=norm, unit=unit)


def plot_mean_accuracy(
    curves: Mapping[str, Mapping[float, tuple[float, Interval | None]]],
    *,
    bars: str | None = None,
    training_eps: float | None = None,
    norm: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Accuracy over eps, one line per method or attack.

    Args:
        curves: by the name in the legend and eps, accuracy in percent and the ends of its interval; None: no bar.
        bars: what the bars are, such as "95 % interval", for the axis; None: the axis does not tell.
        training_eps: see :func:`plot_accuracy`.
        norm: see :func:`plot_accuracy`.
        unit: see :func:`plot_accuracy`.

    Returns:
        The figure.
    """
    figure, axes = new_axes()
    for (name, row), style in zip(curves.items(), line_styles(), strict=False):
        axes.plot(list(row), [value for value, _ in row.values()], label=name, **style)
        known = [(radius, value, *ends) for radius, (value, ends) in row.items() if ends is not None]
        if known:
            radii, values, low, high = map(np.array, zip(*known, strict=True))
            # In black and wide, so that short intervals too are seen on their markers.
            yerr = np.clip([values - low, high - values], 0, None)  # an end may round to the other side
            axes.errorbar(radii, values, yerr=yerr, fmt="none", ecolor="black", elinewidth=1, capsize=5, zorder=3)
    _mark_training(axes, training_eps)
    ylabel = "accuracy (%)" + ("" if bars is None else f",\n{bars}")
    axes.set(xlabel=eps_in_words(None, norm, unit), ylabel=ylabel, ylim=(_below(curves), 101))
    legend_above(figure, columns=1)
    return figure


def _below(curves: Mapping[str, Mapping[float, tuple[float, Interval | None]]]) -> float:
    """A multiple of 10 below all accuracies: accuracies that lie close together are told apart."""
    least = min((value for row in curves.values() for value, _ in row.values()), default=0.0)
    return max(0.0, 10 * ((least - 5) // 10))


def _mark_training(axes: Axes, eps: float | None) -> None:
    """A vertical line at the radius of training."""
    if eps is not None:
        axes.axvline(eps, color="0.4", linestyle=":", label=f"training eps {eps:g}", zorder=0)


def _with_bars(label: str, bars: str | None) -> str:
    return label if bars is None else f"{label},\nmean and {bars}"


def plot_rg_scores(
    scores: Mapping[str, Mapping[str, float]],
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    bars: str | None = None,
    most: float | None = None,
) -> Figure:
    """R&G of each method under each attack, as bars.

    Args:
        scores: R&G (the sum of the accuracies in percent over eps) by method, then by attack. A method that was not
            measured under an attack that others were measured under has "not measured" written in place of the bar.
        errors: half widths of error bars >= 0, laid out as ``scores``; none is drawn for NaN.
        bars: see :func:`plot_mean_accuracy`.
        most: the largest score that there can be, for the axis; None: the axis does not tell.

    Returns:
        The figure: methods from top to bottom, attacks by colour and hatch.

    Raises:
        ValueError: if there is no score, or ``errors`` has other methods or attacks than ``scores``.
    """
    if not scores or not all(scores.values()):
        msg = f"expected at least one method, each with at least one attack, got {dict(scores)}"
        raise ValueError(msg)
    if errors is not None and {m: {*row} for m, row in errors.items()} != {m: {*row} for m, row in scores.items()}:
        msg = f"expected errors of the same methods and attacks as scores, got {dict(errors)} for {dict(scores)}"
        raise ValueError(msg)
    attacks = list(dict.fromkeys(attack for row in scores.values() for attack in row))
    thickness = 0.8 / len(attacks)
    figure, axes = new_axes(height=1.4 + 0.28 * len(scores) * (len(attacks) + 1), grid="x")
    for i, (attack, style) in enumerate(zip(attacks, bar_styles(), strict=False)):
        offset = (i - (len(attacks) - 1) / 2) * thickness
        rows = {position + offset: method for position, method in enumerate(scores) if attack in scores[method]}
        drawn = axes.barh(
            list(rows),
            [scores[method][attack] for method in rows.values()],
            height=thickness,
            xerr=None if errors is None else [errors[method][attack] for method in rows.values()],
            capsize=3,
            label=attack,
            **style,
        )
        axes.bar_label(drawn, fmt="%.1f", padding=4)
        for position in (p + offset for p, method in enumerate(scores) if attack not in scores[method]):
            axes.annotate("not measured", (0, position), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.5)  # the first method at the top
    axes.set_xlim(0, 1.12 * max(axes.get_xlim()))  # room for the numbers
    label = "R&G: sum of the accuracies (%)\nover eps" + ("" if most is None else f", at most {most:g}")
    axes.set(xlabel=_with_bars(label, bars))
    legend_above(figure, columns=min(len(attacks), 4))
    return figure


def plot_differences(differences: Mapping[str, Mapping[str, tuple[float, float | None]]], *, xlabel: str) -> Figure:
    """Differences to a base with their intervals, beside the line of no difference: a forest plot.

    Args:
        differences: by method and metric, mean and half width of its interval >= 0; for None, as for a single pair, the
            point is hollow and has no bar.
        xlabel: what the points and the bars are, with the unit.

    Returns:
        The figure: methods from top to bottom, metrics by colour and marker.

    Raises:
        ValueError: if there is no difference.
    """
    if not differences or not all(differences.values()):
        msg = f"expected at least one method, each with at least one metric, got {dict(differences)}"
        raise ValueError(msg)
    metrics = list(dict.fromkeys(metric for row in differences.values() for metric in row))
    figure, axes = new_axes(height=1.4 + 0.28 * len(differences) * (len(metrics) + 1), grid="x")
    axes.axvline(0, color="0.4", linestyle=":", zorder=0)
    for i, (metric, style) in enumerate(zip(metrics, line_styles(), strict=False)):
        style["linestyle"] = "none"
        shift = (i - (len(metrics) - 1) / 2) * 0.8 / len(metrics)
        rows = [(position + shift, *row[metric]) for position, row in enumerate(differences.values()) if metric in row]
        heights, means, halves = zip(*rows, strict=True)
        bars = [math.nan if half is None else half for half in halves]
        axes.errorbar(means, heights, xerr=bars, capsize=4, label=metric, **{**style, "markersize": 6.0})
        single = [(mean, height) for height, mean, half in rows if half is None]
        axes.plot(*zip(*single, strict=True), **{**style, "markersize": 6.0, "markerfacecolor": "white"})
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)  # the first method at the top
    axes.set(xlabel=xlabel)
    legend_above(figure)
    return figure
