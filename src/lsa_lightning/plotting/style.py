"""What all figures have in common."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; markers, line styles and hatches do the same in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")  # a line that lies under another one shows through its gaps
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo")


def line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and line style of one line after the other."""
    for color, marker, line in zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), strict=True):
        yield {"color": color, "marker": marker, "linestyle": line}


def bar_styles() -> Iterator[dict[str, Any]]:
    """Colour and hatch of one group of bars after the other."""
    for color, hatch in zip(cycle(COLORS), cycle(HATCHES), strict=True):
        yield {"facecolor": color, "hatch": hatch, "edgecolor": "white"}


def new_figure(width: float = 6.0, height: float = 4.2) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def new_axes(width: float = 6.0, height: float = 4.2, grid: str = "y") -> tuple[Figure, Axes]:
    """A figure with one pair of axes, with grid lines from the axis ``grid``."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9")  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    return figure, axes
