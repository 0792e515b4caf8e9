"""Figures of single classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from matplotlib.figure import Figure

from lsa_lightning.plotting.style import legend_above, line_styles, new_axes, shown

_MOST_NUMBERS = 12  # classes in a row whose cells have room for numbers


def plot_confusion(confusion: Sequence[Sequence[int]], *, attacked: str = "") -> Figure:
    """Into which class the samples of each class fall, as a heat map; the diagonal is the accuracy of each class.

    Args:
        confusion: number of samples by class and predicted class, ``[C, C]``, C >= 1.
        attacked: what they were perturbed by, such as ``"pgd, eps 0.3 (Linf)"``, for the axis.

    Returns:
        The figure, in percent of the samples of a class; the row of a class without any is hatched.

    Raises:
        ValueError: if it is no square of counts.
    """
    classes = len(confusion)
    if not classes or any(len(row) != classes or min(row) < 0 for row in confusion):
        msg = f"expected counts of shape [C, C], C >= 1, got rows of lengths {[len(row) for row in confusion]}"
        raise ValueError(msg)
    percent = [[100 * count / sum(row) if any(row) else nan for count in row] for row in confusion]
    figure, axes = new_axes(height=4.8)
    shades = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100)
    figure.colorbar(shades, ax=axes, label="% of the samples of a true class", shrink=0.8)
    if classes <= _MOST_NUMBERS:
        for i, row in enumerate(percent):
            for j, value in enumerate(row if any(confusion[i]) else ()):
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="black" if value > 50 else "white")
    ticks = _ticks(classes)
    under = f"\nunder {attacked}" if attacked else ""
    axes.set(xticks=ticks, yticks=ticks, xlabel=f"predicted class{under}", ylabel="true class")
    axes.grid(visible=False)
    axes.patch.set(hatch="///", edgecolor="0.5")
    return figure


def plot_class_accuracy(
    rows: Mapping[str, Sequence[tuple[float, tuple[float, float]]]], *, samples: int | None = None
) -> Figure:
    """Accuracy of each class with its interval, clean and under an attack side by side.

    Args:
        rows: by the name in the legend, accuracy in percent and the ends of its interval for each of C classes.
        samples: number of samples of all classes, for the axis; None: it does not tell.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no row or no class, or the rows differ in length.
    """
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        msg = f"expected at least one row, each with an accuracy per class, got rows of lengths {sorted(lengths)}"
        raise ValueError(msg)
    (classes,) = lengths
    figure, axes = new_axes(height=3.1)
    for i, ((name, row), style) in enumerate(zip(rows.items(), line_styles(), strict=False)):
        places = [position + 0.3 * (i - (len(rows) - 1) / 2) for position in range(classes)]
        bars = zip(*((value - low, high - value) for value, (low, high) in row), strict=True)
        style |= {"linestyle": "none", "markersize": 5.0}
        axes.errorbar(places, [value for value, _ in row], yerr=list(bars), capsize=3, label=shown(name), **style)
    ticks = _ticks(classes)
    xlabel = "true class" if samples is None else f"true class, {samples} samples in all"
    axes.set(xticks=ticks, xlabel=xlabel, ylabel="accuracy (%), 95 % interval")
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(-2, 102))
    legend_above(figure)
    return figure


def _ticks(classes: int) -> range:
    """Every class that has room for its number, or every so many."""
    return range(0, classes, 1 if classes <= _MOST_NUMBERS else -(-classes // 10))
