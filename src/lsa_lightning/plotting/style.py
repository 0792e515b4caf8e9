"""What all figures have in common."""

from __future__ import annotations

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


def legend_above(figure: Figure, columns: int = 2, **options: Any) -> None:
    """The legend of all axes, which takes none of the width, scarce on a phone."""
    figure.legend(loc="outside upper left", ncols=columns, fontsize="small", **options)


def eps_in_words(eps: float | None, norm: str | None = None, unit: str | None = None) -> str:
    """The radius with its norm and its unit, as far as they are known; None: that of an axis.

    Example:
        >>> eps_in_words(0.3, "Linf", "inputs in [0, 1]"), eps_in_words(None, "L2")
        ('eps 0.3 (Linf, inputs in [0, 1])', 'eps (L2)')
    """
    known = ", ".join(part for part in (norm, unit) if part)
    return ("eps" if eps is None else f"eps {eps:g}") + (f" ({known})" if known else "")
