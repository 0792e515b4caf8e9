"""Figures, in one style, drawn without pyplot's global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from lsa_lightning.analysis import SustainabilityReport
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.functional import log_probabilities
from lsa_lightning.modes import evaluating

# Okabe and Ito's colours, told apart by colour-blind readers; markers and line styles do the same in grey.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")  # a line that lies under another one shows through its gaps


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
    figure, axes = _figure(width=max(6.0, 2.5 + 0.45 * len(first.layers)))
    bars = first.std.tolist() if len(reports) == 1 else None
    for (name, report), style in zip(reports.items(), _styles(), strict=False):
        axes.errorbar(positions, report.mean.tolist(), yerr=bars, capsize=3, label=name, **style)
    for i, layer in enumerate(first.layers):
        if layer in mvl:
            axes.axvspan(i - 0.4, i + 0.4, color="0.9", zorder=0, label="MVL" if layer == mvl[0] else None)
    axes.set_xticks(list(positions), first.layers, rotation=45, ha="right")
    axes.set(xlabel="layer, in the order of execution", ylabel="relative error (mean over samples)")
    axes.set_xlim(-0.5, len(first.layers) - 0.5)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper")
    return figure


def plot_accuracy(table: RobustnessTable) -> Figure:
    """Accuracy over eps, one line per attack."""
    figure, axes = _figure()
    for (name, row), style in zip(table.accuracy.items(), _styles(), strict=False):
        axes.plot(table.eps, row, label=f"{name} (R&G {table.rg_score[name]:.1f})", **style)
    axes.set(xlabel="eps", ylabel="accuracy (%)", ylim=(0, 101))
    axes.legend()
    return figure


def plot_mean_accuracy(curves: Mapping[str, Mapping[float, tuple[float, float | None]]]) -> Figure:
    """Accuracy over eps of several methods under one attack.

    Args:
        curves: by method, mean and standard deviation (None: not known, no bar) in percent by eps.

    Returns:
        The figure.
    """
    figure, axes = _figure()
    for (name, row), style in zip(curves.items(), _styles(), strict=False):
        means, bars = zip(*row.values(), strict=True) if row else ((), ())
        axes.errorbar(list(row), means, yerr=[bar or 0 for bar in bars], capsize=3, label=name, **style)
    axes.set(xlabel="eps", ylabel="accuracy (%)", ylim=(0, 101))
    axes.legend()
    return figure


def plot_decision_boundary(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Figure:
    """Probability of class 1 of a binary classifier over the plane, with clean and adversarial points.

    Args:
        model: maps ``[N, 2]`` to one or two logits.
        x: clean points ``[N, 2]``.
        y: labels 0/1, ``[N]``.
        x_adv: their adversarial partners ``[N, 2]``.

    Returns:
        The figure.

    Raises:
        ValueError: if the points are not two-dimensional.
    """
    if x.ndim != 2 or x.shape[1] != 2:
        msg = f"expected points of shape [N, 2], got {tuple(x.shape)}"
        raise ValueError(msg)
    low, high = torch.cat([x, x_adv]).cpu().aminmax(dim=0)
    columns, rows = (torch.linspace(float(low[i]) - 0.3, float(high[i]) + 0.3, 200) for i in (0, 1))
    plane = torch.cartesian_prod(columns, rows).to(x)
    with evaluating(model), torch.no_grad():
        probability = log_probabilities(model(plane))[:, 1].exp().view(200, 200).T.cpu().numpy()
    figure, axes = _figure(width=7.0)
    levels = np.linspace(0, 1, 11)
    shades = axes.contourf(columns.numpy(), rows.numpy(), probability, levels=levels, cmap="RdBu_r", alpha=0.6)
    axes.contour(columns.numpy(), rows.numpy(), probability, levels=[0.5], colors="black")
    figure.colorbar(shades, ax=axes, label="predicted probability of class 1")
    for label, color, marker in ((0, _COLORS[5], "o"), (1, _COLORS[4], "s")):
        mask = (y.flatten() == label).cpu()
        _scatter(axes, x.cpu()[mask], marker, facecolor=color, label=f"class {label}, clean")
        _scatter(axes, x_adv.cpu()[mask], marker, facecolor="none", label=f"class {label}, adversarial")
    axes.set(xlabel="x1", ylabel="x2")
    axes.grid(visible=False)
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    return figure


def _styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and line style of one line after the other."""
    for color, marker, line in zip(cycle(_COLORS), cycle(_MARKERS), cycle(_LINES), strict=True):
        yield {"color": color, "marker": marker, "linestyle": line}


def _scatter(axes: Axes, points: Tensor, marker: str, facecolor: str, label: str) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=16,
        marker=marker,
        facecolors=facecolor,
        edgecolors="black",
        linewidths=0.6,
        label=label,
    )


def _figure(width: float = 6.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    return figure, axes
