"""Figures of the layers' relative errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lsa_lightning.analysis import SustainabilityReport
from lsa_lightning.plotting.style import line_styles, new_axes


def plot_profiles(reports: Mapping[str, SustainabilityReport], mvl: Sequence[str] = ()) -> Figure:
    """Relative error per layer under each perturber, one line each; the layers of ``mvl`` are shaded.

    Args:
        reports: report by the name in the legend; all of the same layers.
        mvl: names of the most vulnerable layers.

    Returns:
        The figure; with a single report, its bars show one standard deviation over the samples.

    Raises:
        ValueError: if there is no report or the layers differ.
    """
    first = next(iter(reports.values()), None)
    if first is None or any(report.layers != first.layers for report in reports.values()):
        msg = f"expected reports of the same layers, at least one, got {[r.layers for r in reports.values()]}"
        raise ValueError(msg)
    positions = range(len(first.layers))
    figure, axes = new_axes(width=max(6.0, 2.5 + 0.45 * len(first.layers)))
    bars = first.std.tolist() if len(reports) == 1 else None
    for (name, report), style in zip(reports.items(), line_styles(), strict=False):
        axes.errorbar(positions, report.mean.tolist(), yerr=bars, capsize=3, label=name, **style)
    shaded = [i for i, layer in enumerate(first.layers) if layer in mvl]
    for i in shaded:
        axes.axvspan(i - 0.4, i + 0.4, color="0.9", zorder=0, label="MVL" if i == shaded[0] else None)
    axes.set_xticks(list(positions), first.layers, rotation=45, ha="right")
    axes.set(xlabel="layer, in the order of execution", ylabel="relative error (mean over samples)")
    axes.set_xlim(-0.5, len(first.layers) - 0.5)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper")
    return figure


def plot_mvl_history(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The profile over the epochs as a heat map, layers by analysed epochs, with the MVL marked by dots.

    Args:
        history: entries of :attr:`ATLR.history <lsa_lightning.ATLR>` or of ``mvl_history`` in a run's
            ``summary.json``, at least one, all of the same layers: epoch, layers, mean (L relative errors) and mvl.

    Returns:
        The figure, first layer at the top.

    Raises:
        ValueError: if there is no entry, or the layers of the entries differ.
    """
    layers = list(history[0]["layers"]) if history else []
    if not layers or any(entry["layers"] != layers or len(entry["mean"]) != len(layers) for entry in history):
        msg = "expected entries of the same layers with one mean each, at least one, got layers "
        raise ValueError(msg + str([entry["layers"] for entry in history]))
    height = max(3.0, 1.5 + 0.3 * len(layers))
    figure, axes = new_axes(width=7.0, height=height)
    errors = np.array([entry["mean"] for entry in history]).T
    image = axes.imshow(errors, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    figure.colorbar(image, ax=axes, label="relative error (mean over samples)")
    marked = [(x, y) for x, entry in enumerate(history) for y, name in enumerate(layers) if name in entry["mvl"]]
    side = 72 * min(4.5 / len(history), (height - 1.2) / len(layers))  # of a cell, in points
    size = min(0.4 * side, 8.0) ** 2
    columns, rows = [x for x, _ in marked], [y for _, y in marked]
    axes.scatter(columns, rows, s=size, c="white", edgecolors="black", label="MVL")
    axes.set_xticks(*_epoch_ticks([entry["epoch"] for entry in history]))
    axes.set_yticks(range(len(layers)), layers)
    axes.set(xlabel="epoch", ylabel="layer, first at the top")
    axes.grid(visible=False)
    figure.legend(loc="outside upper right")
    return figure


def _epoch_ticks(epochs: Sequence[int]) -> tuple[range, list[str]]:
    """Positions and labels of at most a dozen of the columns."""
    positions = range(0, len(epochs), -(-len(epochs) // 12))
    return positions, [str(epochs[x]) for x in positions]
