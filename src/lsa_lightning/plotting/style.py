"""What all figures have in common."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; markers, filled or hollow, and line styles do the same
# in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")  # a line that lies under another one shows through its gaps
CLASSES = ("#00446E", "#FFE3C2")
"""Of the points of two classes, dark and light, on regions that are neither."""
SIZES = (9.0, 7.5, 6.0, 4.5)  # of markers; one that lies under another one shows around it

WIDTH = 5.0
"""Of most figures in inches: on a phone, 390 pixels wide, their letters are still read."""


def line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and line style of one line after the other; every second marker is hollow."""
    looks = zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), cycle(SIZES), cycle((True, False)), strict=True)
    for color, marker, line, size, filled in looks:
        face = color if filled else "white"
        yield {"color": color, "marker": marker, "linestyle": line, "markersize": size, "markerfacecolor": face}


def new_figure(width: float = WIDTH, height: float = 4.0) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def new_axes(width: float = WIDTH, height: float = 4.0, grid: str = "y") -> tuple[Figure, Axes]:
    """A figure with one pair of axes, with grid lines from the axis ``grid``."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    tidy(axes, grid)
    return figure, axes


def tidy(axes: Axes, grid: str = "y") -> None:
    """No frame, and grid lines from the axis ``grid`` behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9")  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend_above(figure: Figure, columns: int = 2, title: str = "") -> None:
    """The legend of all axes above them, which takes none of their height: the figure grows by that of the legend.

    Args:
        figure: where the axes are drawn already.
        columns: the most entries side by side; fewer where the width, scarce on a phone, has no room for them.
        title: a line above the entries, or several.
    """
    for number in range(columns, 0, -1):
        legend = figure.legend(
            loc="outside upper left",
            ncols=number,
            title=title or None,
            fontsize="small",
            title_fontsize="small",
            alignment="left",
            handlelength=3.0,
        )
        extent = legend.get_window_extent()
        if number == 1 or extent.width < 0.98 * figure.bbox.width:
            break
        legend.remove()
    _grow(figure, extent.height / figure.dpi)


def shown(label: str) -> str:
    """``label`` as it stands in a legend: nothing of it is mathematics, and none is hidden for its first letter."""
    text = re.sub(r"(?<!\\)\$", r"\\$", label)
    return f" {text}" if text.startswith("_") else text


def mark_zero(axes: Axes, along: str) -> None:
    """The line of no difference, on the axis ``along``."""
    line = axes.axvline if along == "x" else axes.axhline
    line(0, color="0.3", linewidth=1.2, zorder=0.5)


def mark_radius(axes: Axes, eps: float, label: str | None = None) -> None:
    """A vertical band at a radius, broad and light: bars there stay visible."""
    axes.axvline(eps, color="0.86", linewidth=7, zorder=0, label=label)


def sign(figure: Figure, text: str) -> None:
    """A line of small grey letters at the bottom that says what the figure is of; it takes none of the axes' height."""
    lines = textwrap.wrap(text, 64)
    figure.supxlabel(
        "\n".join(lines), x=0.99, ha="right", fontsize="small", color="0.4", multialignment="right", parse_math=False
    )
    _grow(figure, 0.17 * len(lines))


def _grow(figure: Figure, height: float) -> None:
    """By a height in inches."""
    figure.set_figheight(figure.get_figheight() + height)


def eps_in_words(eps: float | None, norm: str | None = None, unit: str | None = None) -> str:
    """The radius with its norm and its unit, as far as they are known; None: that of an axis.

    Example:
        >>> eps_in_words(0.3, "Linf", "inputs in [0, 1]"), eps_in_words(None, "L2")
        ('eps 0.3 (Linf, inputs in [0, 1])', 'eps (L2)')
    """
    known = ", ".join(part for part in (norm, unit) if part)
    return ("eps" if eps is None else f"eps {eps:g}") + (f" ({known})" if known else "")
