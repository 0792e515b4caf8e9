"""Figures of how far layers are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import WIDTH, legend_above, line_styles, new_axes, shown

# The higher, the darker, with a leap at 0: the two sides are told apart in grey too.
_BELOW_AND_ABOVE = LinearSegmentedColormap.from_list(
    "below_and_above",
    [(0, "#ECF4FB"), (127 / 255, "#A9CDE4"), (128 / 255, "#CC6A22"), (1, "#4A1800")],
    N=256,
)


def plot_profiles(
    layers: Sequence[str],
    means: Mapping[str, Sequence[float]],
    *,
    stds: Mapping[str, Sequence[float]] | None = None,
    mvl: Sequence[str] = (),
    threshold: tuple[str, float] | None = None,
    measure: str = "relative error",
    attacked: str = "",
    samples: int | None = None,
) -> Figure:
    """A measure per layer under each attack, one line each, side by side; the layers of ``mvl`` are shaded.

    Args:
        layers: L names, in the order of execution.
        means: mean over the samples by the name in the legend, L values each; at least one.
        stds: half lengths of the bars, laid out as ``means``; None: no bars. They end at 0.
        mvl: names of the most vulnerable layers.
        threshold: name and height of a line above which layers are chosen; None: no line.
        measure: what the axis says.
        attacked: the radius of all attacks, such as ``"eps 0.3 (Linf)"``, for the axis; empty: it does not tell.
        samples: number of samples that the means are over, for the axis; None: it does not tell.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no line, or one has not L values.
    """
    lengths = {name: len(row) for name, row in {**means, **(stds or {})}.items()}
    if not means or not layers or any(length != len(layers) for length in lengths.values()):
        msg = f"expected at least one line, each of {len(layers)} values, got {lengths}"
        raise ValueError(msg)
    below = 0.045 * max(map(len, layers))  # for the names, at 45 degrees
    figure, axes = new_axes(width=max(WIDTH, 2.0 + 0.45 * len(layers)), height=3.3 + below)
    for i, ((name, row), style) in enumerate(zip(means.items(), line_styles(), strict=False)):
        shift = 0.6 * (i - (len(means) - 1) / 2) / len(means)  # else equal lines and their bars hide one another
        bars = (
            None if stds is None else [[min(b, max(m, 0.0)) for b, m in zip(stds[name], row, strict=True)], stds[name]]
        )
        positions = [position + shift for position in range(len(layers))]
        style["markersize"] = 5.0
        axes.errorbar(positions, list(row), yerr=bars, capsize=2, elinewidth=1, linewidth=1, label=shown(name), **style)
    shaded = [i for i, layer in enumerate(layers) if layer in mvl]
    for i in shaded:
        axes.axvspan(i - 0.45, i + 0.45, color="0.88", zorder=0, label="MVL" if i == shaded[0] else None)
    if threshold is not None:
        axes.axhline(threshold[1], color="black", linewidth=1.2, linestyle=(0, (6, 3)), label=threshold[0])
    axes.set_xticks(range(len(layers)), list(layers), rotation=45, ha="right", rotation_mode="anchor")
    over = "samples" if samples is None else f"{samples} samples"
    spread = f"mean over {over}" if stds is None else f"mean ± std over {over}\n(bars are cut at 0)"
    xlabel = "layer, in the order of execution" + (f"\nattacks and noises: {attacked}" if attacked else "")
    axes.set(xlabel=xlabel, ylabel=f"{measure},\n{spread}")
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(bottom=0)
    legend_above(figure)
    return figure


def plot_mvl_history(
    epochs: Sequence[int],
    scores: Sequence[Mapping[str, float]],
    mvls: Sequence[Sequence[str]],
    *,
    measure: str = "relative error",
    attack: str = "",
) -> Figure:
    """What Algorithm 1 chooses by, per layer over the epochs as a heat map, with the MVL marked by black bars.

    Args:
        epochs: number of each analysed epoch, at least one.
        scores: for each epoch, ``(mean - mu) / sigma`` by layer, at least one: what Algorithm 1 compares with eta. A
            layer that was not analysed in an epoch, as after a resumption with other ``layers``, is hatched there.
        mvls: for each epoch, the most vulnerable layers.
        measure: what the colour bar says.
        attack: what moves the layers, for the axis; empty: it does not tell.

    Returns:
        The figure, first layer at the top. What lies above the mean of an epoch's layers is orange to brown, what
        lies below is light blue.

    Raises:
        ValueError: if there is no epoch, an epoch has no layer, or the lengths differ.
    """
    if not epochs or not len(epochs) == len(scores) == len(mvls) or not all(scores):
        sizes = [len(row) for row in scores]
        msg = f"expected one profile and one MVL per epoch, each profile with at least one layer, got {sizes} layers "
        msg += f"and {len(mvls)} lists for {len(epochs)} epochs"
        raise ValueError(msg)
    layers = list(dict.fromkeys(layer for row in scores for layer in row))
    height = max(3.2, 1.9 + 0.25 * len(layers))
    figure, axes = new_axes(width=max(WIDTH, 2.6 + 0.083 * max(map(len, layers))), height=height)
    values = np.array([[row.get(layer, np.nan) for row in scores] for layer in layers])
    far = float(np.nanmax(np.abs(values))) or 1.0
    limits: dict[str, Any] = {"vmin": -far, "vmax": far * (1 + 1e-4)}  # a 0 is not above, however it is rounded
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=_BELOW_AND_ABOVE, **limits)
    label = f"{measure}, in sigma from mu,\nthe mean of the epoch's layers"
    scale = figure.colorbar(image, ax=axes, orientation="horizontal", aspect=20).ax
    scale.set_xlabel(label, loc="right")
    _name_the_sides(scale)
    marked = [(x, y) for x, mvl in enumerate(mvls) for y, name in enumerate(layers) if name in mvl]
    starts, ends, rows = [x - 0.5 for x, _ in marked], [x + 0.5 for x, _ in marked], [y for _, y in marked]
    whole: dict[str, Any] = {"antialiased": False}  # else a hairline stays between the bars of two epochs
    axes.hlines(rows, starts, ends, color="white", linewidth=7, **whole)  # cells may be as dark as the bars
    axes.hlines(rows, starts, ends, color="black", linewidth=4, label="in the MVL", **whole)
    axes.set_xticks(*_epoch_ticks(epochs))
    axes.set_yticks(range(len(layers)), layers)
    under = f"\nanalysed under {attack}" if attack else ""
    axes.set_ylabel("layer, first at the top")
    axes.set_xlabel(f"epoch, the first is 0{under}", loc="right")  # there is room on the left, below long names
    axes.patch.set(hatch="///", edgecolor="0.5")
    axes.grid(visible=False)
    legend_above(figure)
    return figure


def _name_the_sides(scale: Axes) -> None:
    """Words on the colour bar, and a line at its 0."""
    scale.axvline(0, color="black")
    words: dict[str, Any] = {"transform": scale.transAxes, "va": "center_baseline", "fontsize": "small"}
    scale.text(0.25, 0.5, "below mu", ha="center", color="black", **words)
    scale.text(0.75, 0.5, "above mu", ha="center", color="white", **words)


def _epoch_ticks(epochs: Sequence[int]) -> tuple[range, list[str]]:
    """Positions and labels of at most 15 of the columns, in steps of 1, 2, 5, 10, ..."""
    step = next(step for k in count() for step in (10**k, 2 * 10**k, 5 * 10**k) if len(epochs) <= 15 * step)
    positions = range(0, len(epochs), step)
    return positions, [str(epochs[x]) for x in positions]
