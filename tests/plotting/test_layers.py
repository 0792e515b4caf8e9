"""What the figures of the layers show."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsa_lightning.plotting import plot_mvl_history, plot_profiles

LAYERS = ["conv1", "conv2", "fc"]


MEANS = {"pgd": [0.7, 0.8, 0.99], "gaussian": [0.1, 0.2, 0.15]}


def shaded(axes: Axes) -> list[float]:
    """Where the shaded rectangles have their middle."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [box.get_x() + box.get_width() / 2 for box in boxes]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_profiles_have_a_line_per_attack() -> None:
    (axes,) = plot_profiles(LAYERS, MEANS).axes
    lines = {container.get_label(): container[0] for container in axes.containers}
    assert set(lines) == {"pgd", "gaussian"}
    for name, expected in MEANS.items():
        assert [round(float(x)) for x in lines[name].get_xdata()] == [0, 1, 2]
        assert list(lines[name].get_ydata()) == expected


def test_equal_lines_stand_side_by_side() -> None:
    (axes,) = plot_profiles(LAYERS, {"pgd": MEANS["pgd"], "fgsm": MEANS["pgd"]}).axes
    pgd, fgsm = (list(container[0].get_xdata()) for container in axes.containers)
    assert pgd == pytest.approx([-0.15, 0.85, 1.85])
    assert fgsm == pytest.approx([0.15, 1.15, 2.15])


def test_the_threshold_is_a_line_with_its_name() -> None:
    figure = plot_profiles(LAYERS, MEANS, threshold=("threshold 0.4 under pgd", 0.4))
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "threshold 0.4 under pgd"]
    assert list(line.get_ydata()) == [0.4, 0.4]
    assert "threshold 0.4 under pgd" in legend_of(figure)
    assert not any("threshold" in label for label in legend_of(plot_profiles(LAYERS, MEANS)))


def test_profiles_name_layers_and_axes() -> None:
    (axes,) = plot_profiles(LAYERS, MEANS).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == LAYERS
    assert axes.get_xlabel() == "layer, in the order of execution"
    assert axes.get_ylabel() == "relative error,\nmean over samples"
    assert axes.get_ylim()[0] == 0


def test_the_mvl_is_shaded_and_in_the_legend_once() -> None:
    figure = plot_profiles(LAYERS, MEANS, mvl=["fc", "conv1"])
    assert sorted(shaded(figure.axes[0])) == pytest.approx([0, 2])
    assert sorted(legend_of(figure)) == ["MVL", "gaussian", "pgd"]


def test_without_an_mvl_nothing_is_shaded() -> None:
    figure = plot_profiles(LAYERS, MEANS)
    assert shaded(figure.axes[0]) == []
    assert sorted(legend_of(figure)) == ["gaussian", "pgd"]


def test_the_axis_names_the_measure() -> None:
    (axes,) = plot_profiles(LAYERS, MEANS, measure="cosine distance").axes
    assert axes.get_ylabel() == "cosine distance,\nmean over samples"


def test_the_axes_say_how_far_attacks_go_and_what_bars_are() -> None:
    (axes,) = plot_profiles(LAYERS, MEANS, stds=MEANS, attacked="eps 0.3 (Linf)").axes
    assert axes.get_xlabel() == "layer, in the order of execution\nattacks: eps 0.3 (Linf)"
    assert axes.get_ylabel() == "relative error,\nmean ± std over samples"


def test_bars_have_the_given_half_lengths() -> None:
    stds = {"pgd": [0.1, 0.2, 0.3], "gaussian": [0.01, 0.02, 0.03]}
    (axes,) = plot_profiles(LAYERS, MEANS, stds=stds).axes
    for container, row in zip(axes.containers, stds.values(), strict=True):
        heights = [float(top[1] - bottom[1]) for bottom, top in container[2][0].get_segments()]
        assert heights == pytest.approx([2 * std for std in row])


def test_without_half_lengths_there_are_no_bars() -> None:
    (axes,) = plot_profiles(LAYERS, MEANS).axes
    assert not any(container.has_yerr for container in axes.containers)


def test_many_layers_get_a_wider_figure() -> None:
    layers = [f"layer{i}" for i in range(28)]
    wide = plot_profiles(layers, {"pgd": [0.1] * 28})
    assert wide.get_figwidth() > plot_profiles(LAYERS, MEANS).get_figwidth()


def test_an_mvl_of_other_layers_shades_and_names_only_those_that_are_there() -> None:
    figure = plot_profiles(LAYERS, MEANS, mvl=["head", "fc"])
    assert shaded(figure.axes[0]) == pytest.approx([2])
    assert legend_of(figure).count("MVL") == 1


@pytest.mark.parametrize(("layers", "means"), [(LAYERS, {}), ([], {"a": []}), (LAYERS, {"a": [1.0] * 3, "b": [1.0]})])
def test_lines_of_another_length_than_the_layers_are_refused(layers: list[str], means: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match=f"expected at least one line, each of {len(layers)} values, got"):
        plot_profiles(layers, means)


def test_bars_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"each of 3 values, got .*'pgd': 1"):
        plot_profiles(LAYERS, MEANS, stds={"pgd": [0.1]})


PROFILES = [dict(zip(LAYERS, row, strict=True)) for row in ([0.1, 0.2, 0.3], [0.6, 0.5, 0.4])]
HISTORY = ([4, 9], PROFILES, [["fc"], ["conv2", "conv1"]])


def dots_of(axes: Axes) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in axes.collections[0].get_offsets()]


def test_the_history_is_a_map_of_layers_by_epochs() -> None:
    axes, scale = plot_mvl_history(*HISTORY).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.1, 0.6], [0.2, 0.5], [0.3, 0.4]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "9"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == LAYERS
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first layer is at the top
    assert scale.get_ylabel() == "relative error, mean"


def test_the_colours_of_the_map_rise_in_grey() -> None:
    colors = plot_mvl_history(*HISTORY).axes[0].images[0].get_cmap()(np.linspace(0, 1, 32))[:, :3]
    assert (np.diff(colors @ [0.299, 0.587, 0.114]) > 0).all()


def test_dots_mark_the_mvl() -> None:
    figure = plot_mvl_history(*HISTORY)
    assert sorted(dots_of(figure.axes[0])) == [(0, 2), (1, 0), (1, 1)]
    assert legend_of(figure) == ["in the MVL"]
    assert dots_of(plot_mvl_history([0], PROFILES[:1], [[]]).axes[0]) == []


def test_layers_that_were_not_analysed_in_an_epoch_stay_white() -> None:
    epochs, profiles, mvls = HISTORY
    (axes, _) = plot_mvl_history([*epochs, 10], [*profiles, {"head": 0.7}], [*mvls, ["head"]]).axes
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(np.isnan(values), [[0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert (2.0, 3.0) in dots_of(axes)


def test_many_epochs_and_layers_get_a_larger_figure_smaller_dots_and_fewer_ticks() -> None:
    profile = {f"layer{i}": 0.1 for i in range(28)}
    long = plot_mvl_history(range(0, 200, 2), [profile] * 100, [["layer3"]] * 100)
    short = plot_mvl_history(*HISTORY)
    assert long.get_figwidth() > short.get_figwidth()
    assert long.get_figheight() > short.get_figheight()
    sizes = [figure.axes[0].collections[0].get_sizes()[0] for figure in (long, short)]
    assert sizes[0] < sizes[1]
    ticks = [tick.get_text() for tick in long.axes[0].get_xticklabels()]
    assert ticks == [str(epoch) for epoch in range(0, 200, 20)]


def test_the_colour_bar_names_the_measure() -> None:
    axes, scale = plot_mvl_history(*HISTORY, measure="cosine distance", attack="PGD, eps 0.3 (Linf)").axes
    assert scale.get_ylabel() == "cosine distance, mean"
    assert axes.get_xlabel() == "epoch\nanalysed under PGD, eps 0.3 (Linf)"


@pytest.mark.parametrize(("odd", "extend"), [(50.0, "max"), (-0.3, "min")])
def test_one_epoch_does_not_take_the_colours_from_all_others(odd: float, extend: str) -> None:
    usual = [{"fc1": 0.2 + 0.01 * epoch, "fc2": 0.4 + 0.01 * epoch} for epoch in range(9)]
    figure = plot_mvl_history(range(10), [{"fc1": odd, "fc2": odd}, *usual], [[]] * 10)
    (image,) = figure.axes[0].images
    low, high = image.get_clim()
    assert (low, high) == pytest.approx((0.2, 0.48))
    assert image.colorbar.extend == extend
    assert figure.axes[1].get_ylabel().endswith("(arrow: beyond, in few epochs)")


def test_of_two_epochs_both_set_the_colours() -> None:
    (image,) = plot_mvl_history(*HISTORY).axes[0].images
    assert image.get_clim() == (0.1, 0.6)
    assert image.colorbar.extend == "neither"


@pytest.mark.parametrize("wrong", [([], [], []), ([0], [{}], [[]]), ([0, 1], PROFILES, [[]]), ([0], PROFILES, [[]])])
def test_a_history_without_a_profile_and_a_list_per_epoch_is_refused(
    wrong: tuple[list[int], list[dict[str, float]], list[list[str]]],
) -> None:
    with pytest.raises(ValueError, match="expected one profile and one MVL per epoch, each profile with at least one"):
        plot_mvl_history(*wrong)
