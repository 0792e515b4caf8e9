"""Figures of how training went."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lsa_lightning.plotting.style import line_styles, new_figure, shown, tidy

Curve = Mapping[int, float]
"""A value by epoch."""


def plot_training(
    losses: Mapping[str, Curve],
    accuracies: Mapping[str, Curve],
    *,
    kept: int | None = None,
    best_by: str = "",
    step: int | None = None,
    attacked: str = "",
) -> Figure:
    """Losses, and below them accuracies, over the epochs, with the epoch whose weights were kept.

    Args:
        losses: by the name in the legend, each with at least one epoch.
        accuracies: in percent, laid out as ``losses``.
        kept: the epoch whose weights were kept, marked by a vertical line; None: no line.
        best_by: what that epoch is the best by, such as ``"val/acc_pgd"``; empty: the line does not tell.
        step: the step within that epoch whose weights were kept; None: its last.
        attacked: what the accuracies under attack were measured at, such as ``"eps 0.3 (Linf)"``, for the axis.

    Returns:
        The figure: axes for whichever of the two there is.

    Raises:
        ValueError: if there is neither a loss nor an accuracy.
    """
    parts = {"loss": losses, "validation accuracy (%)" + (f"\nattacks: {attacked}" if attacked else ""): accuracies}
    drawn = {ylabel: curves for ylabel, curves in parts.items() if curves}
    if not drawn or not all(curve for curves in drawn.values() for curve in curves.values()):
        msg = f"expected at least one curve, each with at least one epoch, got {dict(losses)} and {dict(accuracies)}"
        raise ValueError(msg)
    figure = new_figure(height=0.4 + 2.6 * len(drawn))
    every = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, (ylabel, curves) in zip(every, drawn.items(), strict=True):
        _draw(axes, curves)
        if kept is not None:
            label = f"kept: epoch {kept}" if step is None else f"kept: step {step},\nwithin epoch {kept}"
            label += f"\n(best {best_by})" if best_by else ""
            axes.axvline(kept, color="0.4", linestyle=":", zorder=0, label=label)
        axes.set_ylabel(ylabel)
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        axes.legend(fontsize="small", ncols=2, frameon=False, handlelength=3.0, **place)
    every[-1].set_xlabel("epoch, the first is 0")
    every[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _not_drawn(curve: Curve) -> str:
    """Words on the values that no line shows."""
    missing = [epoch for epoch, value in curve.items() if not isfinite(value)]
    if not missing:
        return ""
    return f"\n(infinite or NaN in {len(missing)} of {len(curve)} epochs,\nfirst in epoch {missing[0]})"


def _draw(axes: Axes, curves: Mapping[str, Curve]) -> None:
    tidy(axes)
    longest = max(map(len, curves.values()))
    for (name, curve), style in zip(curves.items(), line_styles(), strict=False):
        every = max(1, longest // 15)  # of many epochs some have a marker
        axes.plot(
            list(curve),
            list(curve.values()),
            label=shown(name) + _not_drawn(curve),
            markevery=every,
            **{**style, "markersize": style["markersize"] - 2},
        )
