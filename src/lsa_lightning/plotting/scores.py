"""Figures of accuracies and of the R&G score."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from math import isfinite, nan
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import (
    eps_in_words,
    legend_above,
    line_styles,
    mark_radius,
    mark_zero,
    new_axes,
    shown,
)

Interval = tuple[float, float]
"""Its low and its high end."""

_FEWEST_GAPS = 5
"""In how many parts the range of the radii is divided at least, to draw lines beside one another within one of them."""

Curves = Mapping[str, Mapping[float, tuple[float, Interval | None]]]
"""By name and eps, a value and its interval, if that is known."""


def plot_accuracy(
    eps: Sequence[float],
    accuracy: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Interval | None]],
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
        intervals: low and high end of the 95 % interval of each accuracy, laid out as ``accuracy``; None: it has none.
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
    return plot_mean_accuracy(curves, line="attack", bars=bars, training_eps=training_eps, norm=norm, unit=unit)


def plot_mean_accuracy(
    curves: Curves,
    *,
    line: str = "method",
    attack: str = "",
    bars: str | None = None,
    training_eps: float | None = None,
    norm: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Accuracy over eps, one line per method or attack.

    Args:
        curves: by the name in the legend and eps, accuracy in percent and the ends of its interval; None: no bar.
        line: what there is a line for, for the legend.
        attack: what all lines were measured under, for the axis; empty: it does not tell.
        bars: what the bars are, such as "95 % interval", for the legend; None: it does not tell.
        training_eps: see :func:`plot_accuracy`.
        norm: see :func:`plot_accuracy`.
        unit: see :func:`plot_accuracy`.

    Returns:
        The figure.
    """
    known = {"": "accuracy (%)", "exact": "exact accuracy (%),\nin the whole ball"}
    figure, axes = _over_eps(curves, line, bars, training_eps, eps_in_words(None, norm, unit))
    axes.set_ylabel(known.get(attack, f"accuracy under {attack} (%)"))
    axes.set_ylim(*_limits(curves))
    return figure


def plot_difference_curves(
    curves: Curves,
    *,
    bars: str | None = None,
    training_eps: float | None = None,
    norm: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Differences of accuracies to a base over eps, around the line of no difference.

    Args:
        curves: by the name in the legend and eps, difference in percentage points and the ends of its interval; None:
            no bar.
        bars: see :func:`plot_mean_accuracy`.
        training_eps: see :func:`plot_accuracy`.
        norm: see :func:`plot_accuracy`.
        unit: see :func:`plot_accuracy`.

    Returns:
        The figure.
    """
    figure, axes = _over_eps(curves, "pair of methods", bars, training_eps, eps_in_words(None, norm, unit))
    axes.set_ylabel("difference in accuracy\n(percentage points; above 0: better)")
    mark_zero(axes, "y")
    farthest = max(abs(end) for row in curves.values() for mean, ends in row.values() for end in (mean, *(ends or ())))
    axes.set_ylim(-1.1 * farthest or -1, 1.1 * farthest or 1)
    return figure


def _over_eps(
    curves: Curves, line: str, bars: str | None, training_eps: float | None, xlabel: str
) -> tuple[Figure, Axes]:
    """Curves with the training radius marked; what there is a line for, and what the bars are, in the legend."""
    figure, axes = new_axes(height=3.3)
    _draw_curves(axes, curves)
    _mark_training(axes, training_eps)
    axes.set_xlabel(xlabel)
    legend_above(figure, columns=1, title=f"one line per {line}" + (f"; bars: {bars}" if bars else ""))
    return figure, axes


def _draw_curves(axes: Axes, curves: Curves) -> None:
    """Lines with their intervals, side by side: else equal lines and their bars hide one another."""
    radii = sorted({radius for row in curves.values() for radius in row})
    few = (max(radii, default=0) - min(radii, default=0)) / _FEWEST_GAPS  # far from two radii is at neither
    gap = min([few or 1.0, *(b - a for a, b in pairwise(radii))])
    for i, ((name, row), style) in enumerate(zip(curves.items(), line_styles(), strict=False)):
        shift = 0.3 * gap * (i - (len(curves) - 1) / 2) / len(curves)
        values = [value for value, _ in row.values()]
        ends = [known or (nan, nan) for _, known in row.values()]
        away = [(value - low, high - value) for value, (low, high) in zip(values, ends, strict=True)]
        clipped = np.clip(away, 0, None).T  # an end may round to the other side of its value
        bars = None if np.isnan(clipped).all() else clipped  # None: the legend shows none either
        places = [radius + shift for radius in row]
        style["markersize"] = 5.0
        axes.errorbar(places, values, yerr=bars, capsize=3, linewidth=1, label=shown(name), **style)
    if len(radii) == 1:
        axes.set_xticks(radii, [f"{radii[0]:.4g}"])  # the places beside it are no other radii


def _limits(curves: Curves) -> tuple[float, float]:
    """A multiple of 10 below all accuracies, and 100, with room for markers, and for what intervals reach beyond.

    Accuracies that lie close together are told apart.
    """
    points = [(value, *(ends or ())) for row in curves.values() for value, ends in row.values()]
    reached = [end for point in points for end in point if isfinite(end)] or [0.0]
    lowest = 10 * ((min(reached) - 5) // 10)
    return lowest if lowest > 0 else min(-1.0, min(reached) - 1), max(101.0, max(reached) + 1)


def _mark_training(axes: Axes, eps: float | None) -> None:
    """A vertical band at the radius of training, with its name above it."""
    if eps is not None:
        mark_radius(axes, eps)
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text(eps, 1.0, f"training eps {eps:g}", fontsize="small", **place)


def _with_bars(label: str, bars: str | None) -> str:
    return label if bars is None else f"{label},\nmean and {bars}"


def plot_rg_scores(
    scores: Mapping[str, Mapping[str, float]],
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    bars: str | None = None,
    most: float | None = None,
    ceiling: float | None = None,
) -> Figure:
    """R&G of each method under each attack, as points on an axis that begins near the least of them.

    Args:
        scores: R&G (the sum of the accuracies in percent over eps) by method, then by attack. A method that was not
            measured under an attack that others were measured under has "not measured" written in place of the point.
        errors: half widths of error bars >= 0, laid out as ``scores``; none is drawn for NaN.
        bars: what the bars are, such as "95 % interval over 5 seeds", for the axis; None: the axis does not tell.
        most: the largest score that there can be, for the axis; None: the axis does not tell.
        ceiling: the score that no classifier exceeds, a vertical line; None: no line.

    Returns:
        The figure: methods from top to bottom, attacks by colour and marker.

    Raises:
        ValueError: if there is no score, or ``errors`` has other methods or attacks than ``scores``.
    """
    if not scores or not all(scores.values()):
        msg = f"expected at least one method, each with at least one attack, got {dict(scores)}"
        raise ValueError(msg)
    if errors is not None and {m: set(row) for m, row in errors.items()} != {m: set(r) for m, r in scores.items()}:
        msg = f"expected errors of the same methods and attacks as scores, got {dict(errors)} for {dict(scores)}"
        raise ValueError(msg)
    attacks = list(dict.fromkeys(attack for row in scores.values() for attack in row))
    figure, axes = new_axes(height=1.3 + _height_of_rows(scores, 0.19 * (len(attacks) + 1)), grid="x")
    for i, (attack, style) in enumerate(zip(attacks, line_styles(), strict=False)):
        shift = 0.8 * (i - (len(attacks) - 1) / 2) / len(attacks)
        rows = {position + shift: method for position, method in enumerate(scores) if attack in scores[method]}
        values = [scores[method][attack] for method in rows.values()]
        halves = None if errors is None else [errors[method][attack] for method in rows.values()]
        style |= {"linestyle": "none", "markersize": 6.0}
        label = "exact, in the whole ball" if attack == "exact" else attack
        axes.errorbar(values, list(rows), xerr=halves, capsize=3, label=label, **style)
        places = {position + shift for position in range(len(scores))}
        words = {**dict.fromkeys(places, "not measured"), **dict(zip(rows, map("{:.2f}".format, values), strict=True))}
        for height, text in words.items():  # in a column on the right
            axes.text(1.02, height, text, transform=axes.get_yaxis_transform(), va="center", fontsize="small")
    axes.text(1.02, 1.01, "R&G", transform=axes.transAxes, va="bottom", fontsize="small")
    if ceiling is not None:
        axes.axvline(ceiling, color="black", linestyle="--", label=f"ceiling {ceiling:.2f}")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.5)  # the first method at the top
    axes.margins(x=0.08)
    label = "R&G: sum of the accuracies (%)\nover eps" + ("" if most is None else f", at most {most:g}")
    axes.set(xlabel=_with_bars(label, bars))
    legend_above(figure, columns=min(len(attacks) + (ceiling is not None), 4), title="R&G under the attack")
    return figure


def _height_of_rows(labels: Collection[str], least: float) -> float:
    """Of equal rows in inches, each ``least`` high or more, so that labels of several lines do not touch."""
    most = max(label.count("\n") for label in labels) + 1
    return len(labels) * max(least, 0.2 * most + 0.1)


def plot_differences(differences: Mapping[str, Mapping[str, tuple[float, float | None]]], *, xlabel: str) -> Figure:
    """Differences to a base with their intervals, beside the line of no difference: a forest plot.

    Args:
        differences: by method and metric, mean and half width of its interval >= 0; for None, as for a single pair, the
            point is hollow and has no bar.
        xlabel: what the points and the bars are, with the unit.

    Returns:
        The figure: methods from top to bottom, metrics by colour and marker; no difference is in the middle.

    Raises:
        ValueError: if there is no difference.
    """
    if not differences or not all(differences.values()):
        msg = f"expected at least one method, each with at least one metric, got {dict(differences)}"
        raise ValueError(msg)
    metrics = list(dict.fromkeys(metric for row in differences.values() for metric in row))
    figure, axes = new_axes(height=1.0 + _height_of_rows(differences, 0.28 * (len(metrics) + 1)), grid="x")
    mark_zero(axes, "x")
    for i, (metric, style) in enumerate(zip(metrics, line_styles(), strict=False)):
        shift = (i - (len(metrics) - 1) / 2) * 0.8 / len(metrics)
        style |= {"linestyle": "none", "markersize": 6.0}
        label: str | None = metric
        for position, row in enumerate(differences.values()):
            if metric in row:
                mean, half = row[metric]
                style["markerfacecolor"] = "white" if half is None else style["color"]
                axes.errorbar([mean], [position + shift], xerr=half, capsize=4, label=label, **style)
                label = None  # one entry in the legend
    farthest = max(abs(mean) + (half or 0.0) for row in differences.values() for mean, half in row.values())
    axes.set_xlim(-1.1 * farthest or -1.0, 1.1 * farthest or 1.0)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)  # the first method at the top
    axes.set(xlabel=xlabel)
    legend_above(figure)
    return figure
