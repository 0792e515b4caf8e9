"""Figures of clean and adversarial inputs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from lsa_lightning.functional import log_probabilities
from lsa_lightning.plotting.style import CLASSES, legend_above, new_axes, new_figure
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.outputs import read_logits

# The higher, the darker, so that it reads in grey too; the points of either class are told from it.
_PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#F4F9FD", "#B8D0DE", "#C88E5A"])


def plot_decision_boundary(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, attacked: str = "") -> Figure:
    """Probability of class 1 of a binary classifier over the plane, the points, and where some cross the boundary.

    Args:
        model: maps ``[N, 2]`` to one or two logits.
        x: clean points ``[N, 2]``.
        y: labels 0/1, ``[N]``.
        x_adv: their adversarial partners ``[N, 2]``.
        attacked: what moved them, such as ``"pgd, eps 0.3 (Linf)"``, for the title; empty: it does not tell.

    Returns:
        The figure. A partner is drawn, with a line from its point, where the point is right and the partner is not.

    Raises:
        ValueError: if the points are not two-dimensional or there is none, or a label is neither 0 nor 1.
    """
    if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0 or x_adv.shape != x.shape:
        msg = f"expected points of shape [N, 2], N >= 1, got {tuple(x.shape)} and {tuple(x_adv.shape)}"
        raise ValueError(msg)
    if y.numel() != len(x) or not ((y == 0) | (y == 1)).all():
        msg = f"expected {len(x)} labels 0 or 1, got {y.numel()}, among them {sorted(set(y.flatten().tolist()))[:5]}"
        raise ValueError(msg)
    low, high = torch.cat([x, x_adv]).cpu().aminmax(dim=0)
    columns, rows = (torch.linspace(float(low[i]) - 0.3, float(high[i]) + 0.3, 200) for i in (0, 1))
    labels = y.flatten().to(x.device)
    with evaluating(model), torch.no_grad():
        right, still_right = (((_probability(model, points) > 0.5) == labels).cpu() for points in (x, x_adv))
        probability = _probability(model, torch.cartesian_prod(columns, rows).to(x)).view(200, 200).T.cpu().numpy()
    crossed = right & ~still_right
    x, x_adv, labels = x.cpu(), x_adv.cpu(), labels.cpu()
    figure, axes = new_axes(height=4.4)
    levels = np.linspace(0, 1, 11)
    shades = axes.contourf(columns.numpy(), rows.numpy(), probability, levels=levels, cmap=_PROBABILITY)
    axes.contour(columns.numpy(), rows.numpy(), probability, levels=[0.5], colors="black")
    figure.colorbar(shades, ax=axes, label="predicted probability of class 1", orientation="horizontal", aspect=40)
    for start, end in zip(x[crossed].tolist(), x_adv[crossed].tolist(), strict=True):
        axes.plot(*zip(start, end, strict=True), color="black", linewidth=1.2)
    for label, marker in ((0, "o"), (1, "s")):
        _scatter(axes, x[labels == label], marker, facecolor=CLASSES[label], label=f"class {label}")
        moved = x_adv[crossed & (labels == label)]
        _scatter(axes, moved, marker, facecolor=CLASSES[label], label=f"class {label}, moved across", large=True)
    across = f"{int(crossed.sum())} of {len(x)} points cross the boundary"
    words = textwrap.fill(f"{attacked}: {across}" if attacked else across, 60)
    axes.set_title(f"What the model predicts over the plane;\n{words}", fontsize="medium")
    axes.set(xlabel="x1", ylabel="x2", aspect="equal")
    axes.grid(visible=False)
    legend_above(figure)
    return figure


def _probability(model: nn.Module, points: Tensor) -> Tensor:
    """Of class 1, ``[N]``."""
    return log_probabilities(read_logits(model(points)))[:, 1].exp()


def plot_adversarial_images(
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    predicted_clean: Tensor,
    predicted_adv: Tensor,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    title: str = "",
    titles: Sequence[str] | None = None,
) -> Figure:
    """Images, their adversarial partners and the difference, one column per image, with labels and predictions.

    Args:
        x: clean images ``[N, C, H, W]``, N >= 1, C 1 or 3.
        x_adv: their adversarial partners ``[N, C, H, W]``.
        y: labels ``[N]``.
        predicted_clean: predicted classes of ``x``, ``[N]``.
        predicted_adv: predicted classes of ``x_adv``, ``[N]``.
        bounds: pixel values of black and white.
        title: what these images are, a line above them.
        titles: what is said above each image, in a line below its class; None: nothing.

    Returns:
        The figure; differences are scaled so that the largest of all images is black or white, mid-grey is none.

    Raises:
        ValueError: if a shape does not fit, or the bounds are not rising.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0 or x_adv.shape != x.shape:
        msg = (
            f"expected x and x_adv of the same shape [N, 1 or 3, H, W], N >= 1, got {(*x.shape,)} and {(*x_adv.shape,)}"
        )
        raise ValueError(msg)
    if not y.shape == predicted_clean.shape == predicted_adv.shape == x.shape[:1]:
        shapes = [tuple(classes.shape) for classes in (y, predicted_clean, predicted_adv)]
        msg = f"expected y, predicted_clean and predicted_adv of shape [{len(x)}], got {shapes}"
        raise ValueError(msg)
    low, high = bounds
    if not low < high:
        msg = f"expected bounds low < high, got {bounds}"
        raise ValueError(msg)
    difference = x_adv.float() - x.float()
    largest = float(difference.abs().max())
    rows = {
        "clean": ((x - low) / (high - low), predicted_clean),
        "adversarial": ((x_adv - low) / (high - low), predicted_adv),
        "difference": (0.5 + difference / (2 * largest or 1), None),
    }
    figure = new_figure(width=max(4.0, 0.6 + 0.8 * len(x)), height=4.0)
    grid = figure.subplots(3, len(x), squeeze=False)
    for line, (name, (images, predicted)) in zip(grid, rows.items(), strict=True):
        for i, axes in enumerate(line):
            _show(axes, images[i])
            if predicted is not None:
                wrong = int(predicted[i]) != int(y[i])
                weight = "bold" if wrong else "normal"
                axes.set_xlabel(f"as {int(predicted[i])}", fontweight=weight)
        line[0].set_ylabel(name)
    for axes, label, more in zip(grid[0], y.tolist(), titles or [""] * len(x), strict=True):
        axes.set_title(f"class {label:g}" + (f"\n{more}" if more else ""), fontsize="medium")
    scale = f"white +{largest:.3g}, mid-grey 0, black -{largest:.3g}" if largest else "none"
    width = int(13 * figure.get_figwidth())  # characters
    lines = [textwrap.fill(title, width), "below: predicted class, bold where it is wrong", f"difference: {scale}"]
    figure.suptitle("\n".join(filter(None, lines)), fontsize="medium")
    return figure


def _show(axes: Axes, image: Tensor) -> None:
    """An image ``[C, H, W]`` with values in [0, 1]."""
    axes.imshow(
        image.detach().float().cpu().movedim(0, -1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])


def _scatter(axes: Axes, points: Tensor, marker: str, facecolor: str, label: str, *, large: bool = False) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=42 if large else 16,
        marker=marker,
        facecolors=facecolor,
        edgecolors="black",
        linewidths=1.8 if large else 0.6,
        label=label,
    )
