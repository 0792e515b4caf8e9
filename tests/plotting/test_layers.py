"""What the figures of the layers show."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsa_lightning.plotting import plot_mvl_history, plot_profiles
from lsa_lightning.plotting.style import WIDTH

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
    (axes,) = plot_profiles(LAYERS, MEANS, stds=MEANS, attacked="eps 0.3 (Linf)", samples=20).axes
    assert axes.get_xlabel() == "layer, in the order of execution\nattacks and noises: eps 0.3 (Linf)"
    assert axes.get_ylabel() == "relative error,\nmean ± std over 20 samples\n(bars are cut at 0)"


def test_bars_have_the_given_half_lengths() -> None:
    stds = {"pgd": [0.1, 0.2, 0.3], "gaussian": [0.01, 0.02, 0.03]}
    (axes,) = plot_profiles(LAYERS, MEANS, stds=stds).axes
    for container, row in zip(axes.containers, stds.values(), strict=True):
        heights = [float(top[1] - bottom[1]) for bottom, top in container[2][0].get_segments()]
        assert heights == pytest.approx([2 * std for std in row])


def test_no_bar_goes_below_0() -> None:
    (axes,) = plot_profiles(LAYERS, {"salt": [0.1, 0.2, 0.3]}, stds={"salt": [0.3, 0.1, 0.5]}).axes
    ends = [(float(low[1]), float(high[1])) for low, high in axes.containers[0][2][0].get_segments()]
    assert ends == [pytest.approx(each) for each in ((0.0, 0.4), (0.1, 0.3), (0.0, 0.8))]


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


SCORES = [dict(zip(LAYERS, row, strict=True)) for row in ([-0.2, 0.0, 0.3], [0.6, 0.1, -0.4])]
HISTORY = ([4, 9], SCORES, [["fc"], ["conv2", "conv1"]])


def marks_of(axes: Axes) -> list[tuple[float, float, float]]:
    """Start, end and row of each mark of the MVL."""
    black = [c for c in axes.collections if isinstance(c, LineCollection) and c.get_label() == "in the MVL"]
    return [(float(start), float(end), float(y)) for (start, y), (end, _) in black[0].get_segments()]


def test_the_history_is_a_map_of_layers_by_epochs() -> None:
    axes, scale = plot_mvl_history(*HISTORY).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[-0.2, 0.6], [0.0, 0.1], [0.3, -0.4]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "9"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == LAYERS
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first layer is at the top
    assert scale.get_xlabel() == "relative error, in sigma from mu,\nthe mean of the epoch's layers"


def test_the_higher_the_darker_with_a_leap_at_mu_so_that_the_sides_are_told_apart_in_grey() -> None:
    image = plot_mvl_history(*HISTORY).axes[0].images[0]
    assert image.get_clim() == pytest.approx((-0.6, 0.6), rel=1e-3)
    grey = image.cmap(image.norm(np.linspace(-0.6, 0.6, 121)))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) <= 1e-9).all()
    assert grey[59] - grey[61] > 0.2  # of values just below and just above 0
    assert grey[61] - grey[-1] > 0.3


def test_the_colour_bar_says_which_side_is_which() -> None:
    scale = plot_mvl_history(*HISTORY).axes[1]
    places = {text.get_text(): text.get_position()[0] for text in scale.texts}
    assert places == {"below mu": 0.25, "above mu": 0.75}
    assert [0, 0] in [list(line.get_xdata()) for line in scale.lines]


def test_layers_of_one_epoch_whose_errors_differ_differ_in_colour() -> None:
    far = {"conv1": -2.0, "conv2": -1.5, "fc": 3.5}
    image = plot_mvl_history(range(10), [far, *[SCORES[0]] * 9], [["fc"]] * 10).axes[0].images[0]
    assert len({tuple(color) for color in image.cmap(image.norm(list(far.values())))}) == 3


def test_bars_mark_the_mvl_on_a_white_ground() -> None:
    figure = plot_mvl_history(*HISTORY)
    (axes, _) = figure.axes
    assert sorted(marks_of(axes)) == [(-0.5, 0.5, 2), (0.5, 1.5, 0), (0.5, 1.5, 1)]
    ground, marks = (c for c in axes.collections if isinstance(c, LineCollection))
    assert [tuple(c.get_edgecolor()[0]) for c in (ground, marks)] == [(1, 1, 1, 1), (0, 0, 0, 1)]
    assert ground.get_linewidth() > marks.get_linewidth()
    assert legend_of(figure) == ["in the MVL"]
    assert marks_of(plot_mvl_history([0], SCORES[:1], [[]]).axes[0]) == []


def test_a_layer_at_mu_has_a_colour_of_the_scale_which_is_not_that_of_the_layers_above() -> None:
    (axes, _) = plot_mvl_history([0], [{"below": -1.0, "at": 0.0, "above": 0.001}], [[]]).axes
    below, at, above = (axes.images[0].to_rgba(value) for value in (-0.001, 0.0, 0.001))
    assert at == below
    assert sum(at[:3]) > sum(above[:3])


def test_layers_that_were_not_analysed_in_an_epoch_are_hatched() -> None:
    epochs, scores, mvls = HISTORY
    (axes, _) = plot_mvl_history([*epochs, 10], [*scores, {"head": 0.7}], [*mvls, ["head"]]).axes
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(np.isnan(values), [[0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert axes.patch.get_hatch() == "///"
    assert (1.5, 2.5, 3.0) in marks_of(axes)


def test_many_epochs_get_fewer_ticks_and_many_layers_a_higher_figure_and_a_phone_reads_both() -> None:
    scores = {f"layer{i}": 0.1 for i in range(28)}
    long = plot_mvl_history(range(0, 200, 2), [scores] * 100, [["layer3"]] * 100)
    short = plot_mvl_history(*HISTORY)
    assert long.get_figwidth() == short.get_figwidth() == WIDTH
    assert long.get_figheight() > short.get_figheight()
    ticks = [tick.get_text() for tick in long.axes[0].get_xticklabels()]
    assert ticks == [str(epoch) for epoch in range(0, 200, 20)]


def test_long_names_leave_the_map_its_width() -> None:
    names = [f"backbone.vit.encoder.layer.{i}.intermediate.intermediate_act_fn" for i in range(12)]
    figure = plot_mvl_history([0, 1, 2], [dict.fromkeys(names, 0.1)] * 3, [names[:1]] * 3)
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 2 * figure.dpi
    assert min(label.get_window_extent().xmin for label in figure.axes[0].get_yticklabels()) > 0


def test_the_colour_bar_names_the_measure() -> None:
    axes, scale = plot_mvl_history(*HISTORY, measure="cosine distance", attack="PGD, eps 0.3 (Linf)").axes
    assert scale.get_xlabel().startswith("cosine distance, ")
    assert axes.get_xlabel() == "epoch, the first is 0\nanalysed under PGD, eps 0.3 (Linf)"


def test_long_words_stay_inside_of_the_figure() -> None:
    names = [f"backbone.stage{i}.1.act2" for i in range(1, 17)]
    history = plot_mvl_history([0], [dict.fromkeys(names, 0.1)], [names[:1]], attack="APGD, eps 0.03137 (Linf, pixels)")
    means = {"pgd": [0.1] * 16}
    profile = plot_profiles(names, means, stds=means, mvl=names[:2], threshold=("mu + sigma", 0.2), samples=10_000)
    for figure in (history, profile):
        figure.draw_without_rendering()
        labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label) if label.get_text()]
        ends = [end for label in labels for end in label.get_window_extent().get_points()]
        assert all((figure.bbox.min - 1 <= end).all() and (end <= figure.bbox.max + 1).all() for end in ends)
    (legend,) = profile.legends
    assert profile.axes[0].yaxis.label.get_window_extent().ymax <= legend.get_window_extent().ymin


@pytest.mark.parametrize("wrong", [([], [], []), ([0], [{}], [[]]), ([0, 1], SCORES, [[]]), ([0], SCORES, [[]])])
def test_a_history_without_a_profile_and_a_list_per_epoch_is_refused(
    wrong: tuple[list[int], list[dict[str, float]], list[list[str]]],
) -> None:
    with pytest.raises(ValueError, match="expected one profile and one MVL per epoch, each profile with at least one"):
        plot_mvl_history(*wrong)
