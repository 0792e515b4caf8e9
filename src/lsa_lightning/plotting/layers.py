"""Figures of the layers' relative errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lsa_lightning.layers.report import SustainabilityReport
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
            ``summary.json``, at least one, with epoch, layers, mean (one relative error per layer) and mvl. A layer
            that was not analysed in an epoch, as after a resumption with other ``layers``, stays white there.

    Returns:
        The figure, first layer at the top.

    Raises:
        ValueError: if there is no entry, an entry has no layer, or not one mean per layer.
    """
    if not history or any(not entry["layers"] or len(entry["mean"]) != len(entry["layers"]) for entry in history):
        got = [(len(entry["layers"]), len(entry["mean"])) for entry in history]
        msg = f"expected at least one entry, each with layers and as many means, got (layers, means) {got}"
        raise ValueError(msg)
    profiles = [dict(zip(entry["layers"], entry["mean"], strict=True)) for entry in history]
    layers = list(dict.fromkeys(layer for profile in profiles for layer in profile))
    width, height = min(max(7.0, 3.0 + 0.1 * len(history)), 14.0), max(3.2, 1.2 + 0.2 * len(layers))
    figure, axes = new_axes(width, height)
    errors = np.array([[profile.get(layer, np.nan) for profile in profiles] for layer in layers])
    image = axes.imshow(errors, aspect="auto", interpolation="nearest", cmap="viridis")
    figure.colorbar(image, ax=axes, label="relative error, mean", aspect=8 * height, pad=0.02)
    marked = [(x, y) for x, entry in enumerate(history) for y, name in enumerate(layers) if name in entry["mvl"]]
    columns, rows = [x for x, _ in marked], [y for _, y in marked]
    diameter = min(8.0, 0.6 * 72 * min((width - 3.0) / len(history), (height - 1.2) / len(layers)))  # in points
    axes.scatter(columns, rows, diameter**2, "white", edgecolors="black", linewidths=diameter / 8, label="in the MVL")
    axes.set_xticks(*_epoch_ticks([entry["epoch"] for entry in history]))
    axes.set_yticks(range(len(layers)), layers)
    axes.set(xlabel="epoch", ylabel="layer, first at the top")
    axes.grid(visible=False)
    figure.legend(loc="outside upper right")
    return figure


def _epoch_ticks(epochs: Sequence[int]) -> tuple[range, list[str]]:
    """Positions and labels of at most 15 of the columns, in steps of 1, 2, 5, 10, ..."""
    step = next(step for k in count() for step in (10**k, 2 * 10**k, 5 * 10**k) if len(epochs) <= 15 * step)
    positions = range(0, len(epochs), step)
    return positions, [str(epochs[x]) for x in positions]
