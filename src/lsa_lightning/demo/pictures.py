"""What the page shows: the plane with a point and its partner, and the layers as bars."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from lsa_lightning.demo.inputs import Plane
from lsa_lightning.demo.partner import Partner
from lsa_lightning.functional import log_probabilities
from lsa_lightning.layers.report import SustainabilityReport, in_words
from lsa_lightning.plotting.style import COLORS, new_axes
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.outputs import read_logits

_GRID = 120
"""Places, in each direction, at which the model is asked for the shades of a plane."""


def layer_bars(report: SustainabilityReport) -> Figure:
    """The measure of each layer as a bar, the first layer on top."""
    figure, axes = new_axes(height=1.5 + 0.3 * len(report.layers), grid="x")
    bars = axes.barh(report.layers, report.mean.tolist(), color=COLORS[0])
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title="How far each layer moves", xlabel=in_words(report.measure), xlim=(0, None))
    return figure


class PlanePicture:
    """The plane as a model sees it, edge to edge, so that each pixel is a place.

    Args:
        model: maps ``[N, 2]`` to logits of two classes.
        plane: which part of the plane.
    """

    def __init__(self, model: nn.Module, plane: Plane) -> None:
        self.plane = plane
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with evaluating(model), torch.no_grad():
            logits = read_logits(model(plane.grid(_GRID).to(device)))
        self.shades = log_probabilities(logits)[:, 1].exp().view(_GRID, _GRID).cpu().numpy()

    def draw(self, partner: Partner | None = None) -> NDArray[np.uint8]:
        """The picture, uint8 ``[pixels, pixels, 3]``, with a point and its partner."""
        plane = self.plane
        figure = Figure(figsize=(plane.pixels / 100, plane.pixels / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        (left, bottom), (right, top) = plane.low.tolist(), plane.high.tolist()
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
        self._draw_plane(axes)
        if partner is not None:
            _draw_pair(axes, partner.x[0].cpu(), partner.x_adv[0].cpu())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba")
        return np.frombuffer(buffer.getvalue(), np.uint8).reshape(plane.pixels, plane.pixels, 4)[..., :3]

    def _draw_plane(self, axes: Axes) -> None:
        places: dict[str, Any] = {"extent": [*axes.get_xlim(), *axes.get_ylim()], "origin": "lower"}
        axes.imshow(self.shades, cmap="cividis", vmin=0, vmax=1, alpha=0.5, aspect="auto", **places)
        axes.contour(self.shades, levels=[0.5], colors="black", **places)
        for label, marker in ((0, "o"), (1, "s")):
            points = self.plane.points[self.plane.labels == label]
            axes.scatter(points[:, 0], points[:, 1], s=14, marker=marker, color=COLORS[label], alpha=0.6)


def _draw_pair(axes: Axes, x: Tensor, x_adv: Tensor) -> None:
    """The point as a star, its partner as a circle, and an arrow from the one to the other."""
    (from_x, from_y), (to_x, to_y) = x.tolist(), x_adv.tolist()
    axes.annotate("", (to_x, to_y), (from_x, from_y), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
    axes.scatter(from_x, from_y, s=110, marker="*", color="black", zorder=3)
    axes.scatter(to_x, to_y, s=70, marker="o", facecolors="white", edgecolors="black", linewidths=1.5, zorder=3)
