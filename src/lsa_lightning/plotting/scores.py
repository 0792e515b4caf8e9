"""Figures of accuracies and of the R&G score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import bar_styles, line_styles, new_axes


def plot_accuracy(
    eps: Sequence[float],
    accuracy: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    *,
    samples: int,
    training_eps: float | None = None,
    norm: str | None = None,
) -> Figure:
    """Accuracy over eps, one line per attack, with the interval of each accuracy.

    Args:
        eps: the columns, rising.
        accuracy: by the name in the legend, one accuracy in percent per column; at least one row.
        intervals: low and high end of the 95 % interval of each accuracy, laid out as ``accuracy``.
        samples: number of samples behind each accuracy.
        training_eps: radius at which the model was trained, marked by a vertical line; None: no line.
        norm: norm of the ball that eps is the radius of, for the axis.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no row.
    """
    if not accuracy:
        msg = "expected accuracies under at least one attack, got none"
        raise ValueError(msg)
    figure, axes = new_axes()
    for (name, row), style in zip(accuracy.items(), line_styles(), strict=False):
        axes.plot(eps, row, label=name, **style)
        below = [value - low for value, (low, _) in zip(row, intervals[name], strict=True)]
        above = [high - value for value, (_, high) in zip(row, intervals[name], strict=True)]
        axes.errorbar(eps, row, yerr=[below, above], fmt="none", ecolor=style["color"], capsize=3)
    _mark_training(axes, training_eps)
    axes.set(xlabel=_eps_label(norm), ylabel=f"accuracy (%), 95 % interval, {samples} samples", ylim=(0, 101))
    axes.legend()
    return figure


def plot_mean_accuracy(
    curves: Mapping[str, Mapping[float, tuple[float, float | None]]],
    *,
    bars: str | None = None,
    training_eps: float | None = None,
    norm: str | None = None,
) -> Figure:
    """Accuracy over eps of several methods under one attack, one line per method.

    Args:
        curves: by method and eps, mean and half width of its error bar in percent; no bar is drawn for None.
        bars: what the error bars are, such as "95 % interval", for the axis; None: the axis does not tell.
        training_eps: see :func:`plot_accuracy`.
        norm: see :func:`plot_accuracy`.

    Returns:
        The figure.
    """
    figure, axes = new_axes(width=7.0)
    for (name, row), style in zip(curves.items(), line_styles(), strict=False):
        means = [mean for mean, _ in row.values()]
        halves = [math.nan if half is None else half for _, half in row.values()]
        axes.errorbar(list(row), means, yerr=halves, capsize=3, label=name, **style)
    _mark_training(axes, training_eps)
    axes.set(xlabel=_eps_label(norm), ylabel=_with_bars("accuracy (%)", bars), ylim=(0, 101))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _mark_training(axes: Axes, eps: float | None) -> None:
    """A vertical line at the radius of training."""
    if eps is not None:
        axes.axvline(eps, color="0.4", linestyle=":", label="training eps", zorder=0)


def _eps_label(norm: str | None) -> str:
    return "eps" if norm is None else f"eps ({norm})"


def _with_bars(label: str, bars: str | None) -> str:
    return label if bars is None else f"{label}, mean and {bars}"


def plot_rg_scores(
    scores: Mapping[str, Mapping[str, float]],
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    bars: str | None = None,
) -> Figure:
    """R&G of each method under each attack, as bars.

    Args:
        scores: R&G (the sum of the accuracies in percent over eps) by method, then by attack. A method that was not
            measured under an attack that others were measured under has "not measured" written in place of the bar.
        errors: half widths of error bars >= 0, laid out as ``scores``; none is drawn for NaN.
        bars: see :func:`plot_mean_accuracy`.

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
    figure, axes = new_axes(width=7.0, height=1.4 + 0.28 * len(scores) * (len(attacks) + 1), grid="x")
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
    axes.set(xlabel=_with_bars("R&G: sum of the accuracies (%) over eps", bars))
    figure.legend(loc="outside upper center", ncols=min(len(attacks), 4))
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
    figure, axes = new_axes(width=7.0, height=1.4 + 0.28 * len(differences) * (len(metrics) + 1), grid="x")
    axes.axvline(0, color="0.4", linestyle=":", zorder=0)
    for i, (metric, style) in enumerate(zip(metrics, line_styles(), strict=False)):
        style["linestyle"] = "none"
        shift = (i - (len(metrics) - 1) / 2) * 0.8 / len(metrics)
        rows = [(position + shift, *row[metric]) for position, row in enumerate(differences.values()) if metric in row]
        heights, means, halves = zip(*rows, strict=True)
        bars = [math.nan if half is None else half for half in halves]
        axes.errorbar(means, heights, xerr=bars, capsize=3, label=metric, **style)
        single = [(mean, height) for height, mean, half in rows if half is None]
        axes.plot(*zip(*single, strict=True), **{**style, "markerfacecolor": "white"})
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)  # the first method at the top
    axes.set(xlabel=xlabel)
    figure.legend(loc="outside upper center", ncols=min(len(metrics), 4))
    return figure
