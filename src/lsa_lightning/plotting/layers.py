"""Figures of how far layers are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import line_styles, new_axes


def plot_profiles(
    layers: Sequence[str],
    means: Mapping[str, Sequence[float]],
    *,
    stds: Mapping[str, Sequence[float]] | None = None,
    mvl: Sequence[str] = (),
    measure: str = "relative error",
) -> Figure:
    """A measure per layer under each attack, one line each; the layers of ``mvl`` are shaded.

    Args:
        layers: L names, in the order of execution.
        means: mean over the samples by the name in the legend, L values each; at least one.
        stds: half lengths of the bars, laid out as ``means``; None: no bars.
        mvl: names of the most vulnerable layers.
        measure: what the axis says.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no line, or one has not L values.
    """
    lengths = {name: len(row) for name, row in {**means, **(stds or {})}.items()}
    if not means or not layers or any(length != len(layers) for length in lengths.values()):
        msg = f"expected at least one line, each of {len(layers)} values, got {lengths}"
        raise ValueError(msg)
    positions = range(len(layers))
    figure, axes = new_axes(width=max(6.0, 2.5 + 0.45 * len(layers)))
    for (name, row), style in zip(means.items(), line_styles(), strict=False):
        bars = None if stds is None else list(stds[name])
        axes.errorbar(positions, list(row), yerr=bars, capsize=3, label=name, **style)
    shaded = [i for i, layer in enumerate(layers) if layer in mvl]
    for i in shaded:
        axes.axvspan(i - 0.4, i + 0.4, color="0.9", zorder=0, label="MVL" if i == shaded[0] else None)
    axes.set_xticks(list(positions), list(layers), rotation=45, ha="right")
    axes.set(xlabel="layer, in the order of execution", ylabel=f"{measure} (mean over samples)")
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper")
    return figure


def plot_mvl_history(
    epochs: Sequence[int],
    profiles: Sequence[Mapping[str, float]],
    mvls: Sequence[Sequence[str]],
    *,
    measure: str = "relative error",
) -> Figure:
    """A measure per layer over the epochs as a heat map, with the MVL marked by dots.

    Args:
        epochs: number of each analysed epoch, at least one.
        profiles: for each epoch, mean of the measure by layer, at least one. A layer that was not analysed in an epoch,
            as after a resumption with other ``layers``, stays white there.
        mvls: for each epoch, the most vulnerable layers.
        measure: what the colour bar says.

    Returns:
        The figure, first layer at the top.

    Raises:
        ValueError: if there is no epoch, an epoch has no layer, or the lengths differ.
    """
    if not epochs or not len(epochs) == len(profiles) == len(mvls) or not all(profiles):
        sizes = [len(profile) for profile in profiles]
        msg = f"expected one profile and one MVL per epoch, each profile with at least one layer, got {sizes} layers "
        msg += f"and {len(mvls)} lists for {len(epochs)} epochs"
        raise ValueError(msg)
    layers = list(dict.fromkeys(layer for profile in profiles for layer in profile))
    width, height = min(max(7.0, 3.0 + 0.1 * len(epochs)), 14.0), max(3.2, 1.2 + 0.2 * len(layers))
    figure, axes = new_axes(width, height)
    errors = np.array([[profile.get(layer, np.nan) for profile in profiles] for layer in layers])
    image = axes.imshow(errors, aspect="auto", interpolation="nearest", cmap="viridis")
    figure.colorbar(image, ax=axes, label=f"{measure}, mean", aspect=8 * height, pad=0.02)
    marked = [(x, y) for x, mvl in enumerate(mvls) for y, name in enumerate(layers) if name in mvl]
    columns, rows = [x for x, _ in marked], [y for _, y in marked]
    diameter = min(8.0, 0.6 * 72 * min((width - 3.0) / len(epochs), (height - 1.2) / len(layers)))  # in points
    axes.scatter(columns, rows, diameter**2, "white", edgecolors="black", linewidths=diameter / 8, label="in the MVL")
    axes.set_xticks(*_epoch_ticks(epochs))
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
