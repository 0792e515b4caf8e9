"""What the figures of the layers show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsa_lightning import SustainabilityReport
from lsa_lightning.plotting import plot_mvl_history, plot_profiles

LAYERS = ["conv1", "conv2", "fc"]


def report(*means: float, layers: list[str] = LAYERS) -> SustainabilityReport:
    mean = torch.tensor(means, dtype=torch.float64)
    return SustainabilityReport(layers, layers, mean, mean / 10, mean.mean(), mean.std(correction=0), 10, "PGD")


def reports() -> dict[str, SustainabilityReport]:
    return {"pgd": report(0.7, 0.8, 0.99), "gaussian": report(0.1, 0.2, 0.15)}


def shaded(axes: Axes) -> list[float]:
    """Where the shaded rectangles have their middle."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [box.get_x() + box.get_width() / 2 for box in boxes]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_profiles_have_a_line_per_perturber() -> None:
    (axes,) = plot_profiles(reports()).axes
    lines = {container.get_label(): container[0] for container in axes.containers}
    assert set(lines) == {"pgd", "gaussian"}
    for name, expected in reports().items():
        assert list(lines[name].get_xdata()) == [0, 1, 2]
        assert list(lines[name].get_ydata()) == expected.mean.tolist()


def test_profiles_name_layers_and_axes() -> None:
    (axes,) = plot_profiles(reports()).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == LAYERS
    assert axes.get_xlabel() == "layer, in the order of execution"
    assert axes.get_ylabel() == "relative error (mean over samples)"
    assert axes.get_ylim()[0] == 0


def test_the_mvl_is_shaded_and_in_the_legend_once() -> None:
    figure = plot_profiles(reports(), ["fc", "conv1"])
    assert sorted(shaded(figure.axes[0])) == pytest.approx([0, 2])
    assert sorted(legend_of(figure)) == ["MVL", "gaussian", "pgd"]


def test_without_an_mvl_nothing_is_shaded() -> None:
    figure = plot_profiles(reports())
    assert shaded(figure.axes[0]) == []
    assert sorted(legend_of(figure)) == ["gaussian", "pgd"]


@pytest.mark.parametrize(("names", "bars"), [(["pgd"], True), (["pgd", "gaussian"], False)])
def test_bars_of_one_standard_deviation_only_for_a_single_report(names: list[str], bars: bool) -> None:
    (axes,) = plot_profiles({name: reports()[name] for name in names}).axes
    assert all(container.has_yerr is bars for container in axes.containers)
    if bars:
        segments = axes.containers[0][2][0].get_segments()
        heights = [float(top[1] - bottom[1]) for bottom, top in segments]
        assert heights == pytest.approx([2 * std for std in reports()["pgd"].std.tolist()])


def test_a_report_plots_itself() -> None:
    assert legend_of(reports()["pgd"].plot()) == ["PGD"]


def test_many_layers_get_a_wider_figure() -> None:
    layers = [f"layer{i}" for i in range(28)]
    wide = plot_profiles({"pgd": report(*[0.1] * 28, layers=layers)})
    assert wide.get_figwidth() > plot_profiles(reports()).get_figwidth()


def test_an_mvl_of_other_layers_shades_and_names_only_those_that_are_there() -> None:
    figure = plot_profiles(reports(), ["head", "fc"])
    assert shaded(figure.axes[0]) == pytest.approx([2])
    assert legend_of(figure).count("MVL") == 1


@pytest.mark.parametrize("wrong", [{}, {"a": report(0.1, 0.2, 0.3), "b": report(0.1, layers=["conv1"])}])
def test_profiles_of_different_layers_are_refused(wrong: dict[str, SustainabilityReport]) -> None:
    with pytest.raises(ValueError, match="expected reports of the same layers, at least one"):
        plot_profiles(wrong)


def entry(epoch: int, means: list[float], mvl: list[str], layers: list[str] = LAYERS) -> dict[str, Any]:
    return {"epoch": epoch, "layers": layers, "mean": means, "mvl": mvl}


HISTORY = [entry(4, [0.1, 0.2, 0.3], ["fc"]), entry(9, [0.6, 0.5, 0.4], ["conv2", "conv1"])]


def dots_of(axes: Axes) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in axes.collections[0].get_offsets()]


def test_the_history_is_a_map_of_layers_by_epochs() -> None:
    axes, scale = plot_mvl_history(HISTORY).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.1, 0.6], [0.2, 0.5], [0.3, 0.4]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "9"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == LAYERS
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first layer is at the top
    assert scale.get_ylabel() == "relative error, mean"


def test_the_colours_of_the_map_rise_in_grey() -> None:
    colors = plot_mvl_history(HISTORY).axes[0].images[0].get_cmap()(np.linspace(0, 1, 32))[:, :3]
    assert (np.diff(colors @ [0.299, 0.587, 0.114]) > 0).all()


def test_dots_mark_the_mvl() -> None:
    figure = plot_mvl_history(HISTORY)
    assert sorted(dots_of(figure.axes[0])) == [(0, 2), (1, 0), (1, 1)]
    assert legend_of(figure) == ["in the MVL"]
    assert dots_of(plot_mvl_history([entry(0, [0.1, 0.2, 0.3], [])]).axes[0]) == []


def test_layers_that_were_not_analysed_in_an_epoch_stay_white() -> None:
    (axes, _) = plot_mvl_history([*HISTORY, entry(10, [0.7], ["head"], layers=["head"])]).axes
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(np.isnan(values), [[0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert (2.0, 3.0) in dots_of(axes)


def test_many_epochs_and_layers_get_a_larger_figure_smaller_dots_and_fewer_ticks() -> None:
    layers = [f"layer{i}" for i in range(28)]
    long = plot_mvl_history([entry(2 * e, [0.1] * 28, ["layer3"], layers) for e in range(100)])
    short = plot_mvl_history(HISTORY)
    assert long.get_figwidth() > short.get_figwidth()
    assert long.get_figheight() > short.get_figheight()
    sizes = [figure.axes[0].collections[0].get_sizes()[0] for figure in (long, short)]
    assert sizes[0] < sizes[1]
    ticks = [tick.get_text() for tick in long.axes[0].get_xticklabels()]
    assert ticks == [str(epoch) for epoch in range(0, 200, 20)]


@pytest.mark.parametrize("wrong", [[], [entry(0, [0.1], [])], [entry(0, [], [], layers=[])]])
def test_a_history_without_profiles_is_refused(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="expected at least one entry, each with layers and as many means, got"):
        plot_mvl_history(wrong)
