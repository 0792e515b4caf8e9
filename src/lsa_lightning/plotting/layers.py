"""Figures of how far layers are moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lsa_lightning.plotting.style import WIDTH, legend_above, line_styles, new_axes


def plot_profiles(
    layers: Sequence[str],
    means: Mapping[str, Sequence[float]],
    *,
    stds: Mapping[str, Sequence[float]] | None = None,
    mvl: Sequence[str] = (),
    threshold: tuple[str, float] | None = None,
    measure: str = "relative error",
    attacked: str = "",
) -> Figure:
    """A measure per layer under each attack, one line each, side by side; the layers of ``mvl`` are shaded.

    Args:
        layers: L names, in the order of execution.
        means: mean over the samples by the name in the legend, L values each; at least one.
        stds: half lengths of the bars, laid out as ``means``; None: no bars.
        mvl: names of the most vulnerable layers.
        threshold: name and height of a line above which layers are chosen; None: no line.
        measure: what the axis says.
        attacked: the radius of all attacks, such as ``"eps 0.3 (Linf)"``, for the axis; empty: it does not tell.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no line, or one has not L values.
    """
    lengths = {name: len(row) for name, row in {**means, **(stds or {})}.items()}
    if not means or not layers or any(length != len(layers) for length in lengths.values()):
        msg = f"expected at least one line, each of {len(layers)} values, got {lengths}"
        raise ValueError(msg)
    figure, axes = new_axes(width=max(WIDTH, 2.0 + 0.45 * len(layers)), height=4.6)
    for i, ((name, row), style) in enumerate(zip(means.items(), line_styles(), strict=False)):
        shift = 0.6 * (i - (len(means) - 1) / 2) / len(means)  # else equal lines and their bars hide one another
        bars = None if stds is None else list(stds[name])
        positions = [position + shift for position in range(len(layers))]
        style["markersize"] = 5.0
        axes.errorbar(positions, list(row), yerr=bars, capsize=2, elinewidth=1, linewidth=1, label=name, **style)
    shaded = [i for i, layer in enumerate(layers) if layer in mvl]
    for i in shaded:
        axes.axvspan(i - 0.45, i + 0.45, color="0.88", zorder=0, label="MVL" if i == shaded[0] else None)
    if threshold is not None:
        axes.axhline(threshold[1], color="black", linewidth=1.2, linestyle=(0, (6, 3)), label=threshold[0])
    axes.set_xticks(range(len(layers)), list(layers), rotation=45, ha="right", rotation_mode="anchor")
    spread = "mean over samples" if stds is None else "mean ± std over samples"
    xlabel = "layer, in the order of execution" + (f"\nattacks: {attacked}" if attacked else "")
    axes.set(xlabel=xlabel, ylabel=f"{measure},\n{spread}")
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(bottom=0)
    legend_above(figure)
    return figure


def plot_mvl_history(
    epochs: Sequence[int],
    profiles: Sequence[Mapping[str, float]],
    mvls: Sequence[Sequence[str]],
    *,
    measure: str = "relative error",
    attack: str = "",
) -> Figure:
    """A measure per layer over the epochs as a heat map, with the MVL marked by dots.

    Args:
        epochs: number of each analysed epoch, at least one.
        profiles: for each epoch, mean of the measure by layer, at least one. A layer that was not analysed in an epoch,
            as after a resumption with other ``layers``, stays white there.
        mvls: for each epoch, the most vulnerable layers.
        measure: what the colour bar says.
        attack: what moves the layers, for the axis; empty: it does not tell.

    Returns:
        The figure, first layer at the top. A few epochs whose values lie far from all others', such as the first one,
        do not take the colours from these: the scale ends before them, and an arrow says that more lies beyond.

    Raises:
        ValueError: if there is no epoch, an epoch has no layer, or the lengths differ.
    """
    if not epochs or not len(epochs) == len(profiles) == len(mvls) or not all(profiles):
        sizes = [len(profile) for profile in profiles]
        msg = f"expected one profile and one MVL per epoch, each profile with at least one layer, got {sizes} layers "
        msg += f"and {len(mvls)} lists for {len(epochs)} epochs"
        raise ValueError(msg)
    layers = list(dict.fromkeys(layer for profile in profiles for layer in profile))
    width, height = min(max(WIDTH, 3.0 + 0.1 * len(epochs)), 14.0), max(3.6, 1.6 + 0.2 * len(layers))
    figure, axes = new_axes(width, height)
    errors = np.array([[profile.get(layer, np.nan) for profile in profiles] for layer in layers])
    low, high = _most_epochs(errors)
    image = axes.imshow(errors, aspect="auto", interpolation="nearest", cmap="viridis", vmin=low, vmax=high)
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    ends = beyond[bool(np.nanmin(errors) < low), bool(np.nanmax(errors) > high)]
    label = f"{measure}, mean" + ("" if ends == "neither" else "\n(arrow: beyond, in few epochs)")
    figure.colorbar(image, ax=axes, label=label, aspect=8 * height, pad=0.02, extend=ends)
    marked = [(x, y) for x, mvl in enumerate(mvls) for y, name in enumerate(layers) if name in mvl]
    columns, rows = [x for x, _ in marked], [y for _, y in marked]
    diameter = min(8.0, 0.6 * 72 * min((width - 2.5) / len(epochs), (height - 1.4) / len(layers)))  # in points
    axes.scatter(columns, rows, diameter**2, "white", edgecolors="black", linewidths=diameter / 8, label="in the MVL")
    axes.set_xticks(*_epoch_ticks(epochs))
    axes.set_yticks(range(len(layers)), layers)
    axes.set(xlabel="epoch" + (f"\nanalysed under {attack}" if attack else ""), ylabel="layer, first at the top")
    axes.grid(visible=False)
    legend_above(figure)
    return figure


def _most_epochs(errors: NDArray[np.float64]) -> tuple[float, float]:
    """Least and largest value ``[L, E]``, without a tenth of the epochs, at least one, if it is far from the others.

    Far is as far as the others are from one another.
    """
    least, largest = (np.sort(ends) for ends in (np.nanmin(errors, axis=0), np.nanmax(errors, axis=0)))
    left_out = math.ceil(0.1 * len(least)) if len(least) > 2 else 0
    low, high = float(least[left_out]), float(largest[-1 - left_out])
    far = max(high - low, 0.0)
    ends = float(least[0]), float(largest[-1])
    return (low if low - ends[0] > far else ends[0]), (high if ends[1] - high > far else ends[1])


def _epoch_ticks(epochs: Sequence[int]) -> tuple[range, list[str]]:
    """Positions and labels of at most 15 of the columns, in steps of 1, 2, 5, 10, ..."""
    step = next(step for k in count() for step in (10**k, 2 * 10**k, 5 * 10**k) if len(epochs) <= 15 * step)
    positions = range(0, len(epochs), step)
    return positions, [str(epochs[x]) for x in positions]
