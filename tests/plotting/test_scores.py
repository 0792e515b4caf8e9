"""What the figures of accuracies and scores show."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsa_lightning.functional import wilson_interval
from lsa_lightning.plotting import (
    plot_accuracy,
    plot_difference_curves,
    plot_differences,
    plot_mean_accuracy,
    plot_rg_scores,
)
from lsa_lightning.plotting.style import COLORS

EPS = [0.0, 0.1, 0.2]
ACCURACY = {"fgsm": [90.0, 80, 70], "pgd": [90.0, 75, 0]}
INTERVALS = {name: [wilson_interval(int(a * 20 / 100), 20) for a in row] for name, row in ACCURACY.items()}
SCORES = {"AT": {"fgsm": 500.0, "pgd": 450.0}, "AT-LR": {"fgsm": 510.5, "pgd": 480.0}}


def bars_of(axes: Axes) -> list[ErrorbarContainer]:
    return [container for container in axes.containers if isinstance(container, ErrorbarContainer)]


def lines_of(axes: Axes) -> dict[str, Line2D]:
    """The line of each series, by its name in the legend."""
    return {str(bars.get_label()): bars.lines[0] for bars in bars_of(axes)}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def accuracy_axes(**options: Any) -> Axes:
    (axes,) = plot_accuracy(EPS, ACCURACY, INTERVALS, samples=20, **options).axes
    return axes


def test_accuracy_has_a_line_per_attack() -> None:
    axes = accuracy_axes()
    assert {name: list(line.get_ydata()) for name, line in lines_of(axes).items()} == ACCURACY
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("eps", "accuracy (%)")


def test_equal_lines_stand_side_by_side_around_their_eps() -> None:
    fgsm, pgd = (np.asarray(line.get_xdata(), dtype=float) for line in lines_of(accuracy_axes()).values())
    np.testing.assert_allclose((fgsm + pgd) / 2, EPS, atol=1e-12)
    np.testing.assert_allclose(pgd - fgsm, 0.006)


def test_of_two_radii_no_line_stands_far_from_either() -> None:
    rows = {f"method {i}": {0.0: (90.0, None), 0.3: (50.0, None)} for i in range(6)}
    (axes,) = plot_mean_accuracy(rows).axes
    places = np.asarray([line.get_xdata() for line in lines_of(axes).values()], dtype=float)
    assert np.abs(places - [0.0, 0.3]).max() < 0.3 / 30
    assert len(set(places[:, 0])) == 6


def test_without_a_curve_there_is_an_empty_figure() -> None:
    (axes,) = plot_mean_accuracy({}).axes
    assert not axes.lines


def test_of_one_radius_no_other_is_named() -> None:
    rows = {f"method {i}": {0.3: (50.0, None)} for i in range(6)}
    (axes,) = plot_mean_accuracy(rows).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.3"]


def test_lines_differ_in_colour_marker_style_and_filling_and_bars_are_of_their_colour() -> None:
    axes = accuracy_axes()
    for look in ("get_color", "get_marker", "get_linestyle", "get_markerfacecolor"):
        assert len({getattr(line, look)() for line in lines_of(axes).values()}) == 2
    for bars in bars_of(axes):
        assert bars.lines[2][0].get_edgecolor()[0] == pytest.approx(to_rgba(bars.lines[0].get_color()))


def test_each_accuracy_has_its_interval() -> None:
    for container, expected in zip(bars_of(accuracy_axes()), INTERVALS.values(), strict=True):
        drawn = [(float(low[1]), float(high[1])) for low, high in container[2][0].get_segments()]
        assert [end for pair in drawn for end in pair] == pytest.approx([end for pair in expected for end in pair])


def test_what_has_no_interval_has_no_bar() -> None:
    (axes,) = plot_accuracy(EPS, {"ceiling": [90.0] * 3}, {"ceiling": [None] * 3}, samples=20).axes
    assert not bars_of(axes)[0].has_yerr  # so that the legend shows none either


def test_no_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="expected accuracies under at least one attack, got none"):
        plot_accuracy(EPS, {}, {}, samples=20)


def marked_radii(axes: Axes) -> list[tuple[str, float]]:
    """What stands above the vertical bands, and where these are."""
    lines = [line.get_xdata()[0] for line in axes.lines if line.get_linewidth() == 7]
    return [(text.get_text(), line) for text, line in zip(axes.texts, lines, strict=True)]


def title_of(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text()


def test_the_radius_of_training_is_a_vertical_line_and_the_axis_names_the_norm() -> None:
    figure = plot_accuracy(EPS, ACCURACY, INTERVALS, samples=20, training_eps=0.15, norm="L2", unit="pixels")
    (axes,) = figure.axes
    assert marked_radii(axes) == [("training eps 0.15", 0.15)]
    assert axes.get_xlabel() == "eps (L2, pixels)"
    assert legend_of(figure) == ["fgsm", "pgd"]


@pytest.mark.parametrize(("least", "bottom"), [(66.0, 60.0), (64.0, 50.0), (3.0, -1.0)])
def test_the_axis_begins_below_the_least_accuracy(least: float, bottom: float) -> None:
    (axes,) = plot_mean_accuracy({"AT": {0.0: (90.0, None), 0.1: (least, None)}}).axes
    assert axes.get_ylim()[0] == bottom


def test_the_axis_has_room_for_whole_intervals() -> None:
    (axes,) = plot_mean_accuracy({"AT": {0.0: (97.0, (90.0, 104.0)), 0.1: (76.0, (68.0, 80.0))}}).axes
    bottom, top = axes.get_ylim()
    assert bottom < 68
    assert top > 104


def test_names_of_any_letters_are_in_the_legend() -> None:
    figure = plot_mean_accuracy({"_pgd": {0.0: (97.0, None)}, "a$b$": {0.0: (90.0, None)}})
    assert [name.strip() for name in legend_of(figure)] == ["_pgd", r"a\$b\$"]


def test_scores_are_points_by_method_and_attack_near_one_another() -> None:
    figure = plot_rg_scores(SCORES)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["AT", "AT-LR"]
    drawn = {name: line.get_xydata().tolist() for name, line in lines_of(axes).items()}
    assert drawn == {
        "fgsm": [[500.0, pytest.approx(-0.2)], [510.5, pytest.approx(0.8)]],
        "pgd": [[450.0, pytest.approx(0.2)], [480.0, pytest.approx(1.2)]],
    }
    assert legend_of(figure) == ["fgsm", "pgd"]
    assert {text.get_text() for text in axes.texts} == {"R&G", "500.00", "510.50", "450.00", "480.00"}
    low, high = axes.get_xlim()
    assert 430 < low < 450
    assert 510.5 < high < 530


def test_rows_that_come_from_no_attack_say_what_they_are() -> None:
    figure = plot_rg_scores({"AT": {"pgd": 480.0, "exact": 470.0}})
    assert legend_of(figure) == ["pgd", "exact, in the whole ball"]
    exact = plot_mean_accuracy({"AT": {0.0: (90.0, None), 0.1: (80.0, None)}}, attack="exact")
    assert exact.axes[0].get_ylabel() == "exact accuracy (%),\nin the whole ball"
    assert legend_of(plot_mean_accuracy({"exact": {0.0: (90.0, None)}})) == ["exact"]  # the name of a method


def test_the_legend_of_scores_says_that_there_is_a_point_per_attack() -> None:
    assert title_of(plot_rg_scores(SCORES)) == "R&G under the attack"


def test_scores_stand_beside_the_ceiling() -> None:
    figure = plot_rg_scores(SCORES, ceiling=515.25)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "ceiling 515.25"]
    assert list(line.get_xdata()) == [515.25, 515.25]
    assert "ceiling 515.25" in legend_of(figure)


def test_errors_are_half_widths() -> None:
    errors = {"AT": {"fgsm": 5.0, "pgd": 2.0}, "AT-LR": {"fgsm": 1.0, "pgd": 3.0}}
    (axes,) = plot_rg_scores(SCORES, errors=errors).axes
    drawn = [[float(right[0] - left[0]) for left, right in bar[2][0].get_segments()] for bar in bars_of(axes)]
    assert drawn == [[10.0, 2.0], [4.0, 6.0]]


def test_no_error_bar_is_drawn_for_nan() -> None:
    (axes,) = plot_rg_scores({"AT": {"pgd": 1.0}}, errors={"AT": {"pgd": np.nan}}).axes
    (bar,) = bars_of(axes)
    assert [len(segment) for segment in bar[2][0].get_segments()] == [0]


def test_axes_say_what_the_error_bars_are() -> None:
    (scores,) = plot_rg_scores(SCORES, errors=SCORES, bars="95 % interval").axes
    assert scores.get_xlabel() == "R&G: sum of the accuracies (%)\nover eps,\nmean and 95 % interval"


def test_the_legend_says_what_there_is_a_line_for_and_what_the_bars_are() -> None:
    curves = {"AT": {0.0: (90.0, (88.0, 92.0))}}
    assert title_of(plot_mean_accuracy(curves)) == "one line per method"
    seeds = plot_mean_accuracy(curves, line="checkpoint", attack="pgd", bars="95 % interval of the mean over 3 seeds")
    assert title_of(seeds) == "one line per checkpoint; bars: 95 % interval of the mean over 3 seeds"
    assert seeds.axes[0].get_ylabel() == "accuracy under pgd (%)"
    attacks = plot_accuracy(EPS, ACCURACY, INTERVALS, samples=20)
    assert title_of(attacks) == "one line per attack; bars: 95 % interval, 20 samples"
    pairs = plot_difference_curves({"AT-LR minus AT": {0.0: (1.0, (0.0, 2.0))}}, bars="95 % interval")
    assert title_of(pairs) == "one line per pair of methods; bars: 95 % interval"


def test_the_axis_of_scores_says_how_large_they_can_be() -> None:
    (axes,) = plot_rg_scores(SCORES, most=600.0).axes
    assert axes.get_xlabel() == "R&G: sum of the accuracies (%)\nover eps, at most 600"


def test_what_was_not_measured_says_so_in_its_place() -> None:
    (axes,) = plot_rg_scores({"AT": {"fgsm": 500.0}, "AT-LR": {"fgsm": 510.0, "pgd": 480.0}}).axes
    assert len(lines_of(axes)["pgd"].get_xdata()) == 1
    (missing,) = [text for text in axes.texts if text.get_text() == "not measured"]
    assert missing.get_position()[1] == pytest.approx(0.2)


@pytest.mark.parametrize("wrong", [{}, {"AT": {}}, {"AT": {"pgd": 1.0}, "AT-LR": {}}])
def test_no_score_is_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="expected at least one method, each with at least one attack, got"):
        plot_rg_scores(wrong)


@pytest.mark.parametrize("wrong", [{}, {"AT": {"fgsm": 1.0, "pgd": 1.0}}, {name: {"pgd": 1.0} for name in SCORES}])
def test_errors_of_something_else_are_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="expected errors of the same methods and attacks as scores, got"):
        plot_rg_scores(SCORES, errors=wrong)


def test_mean_accuracy_has_a_line_per_method_with_bars_where_the_spread_is_known() -> None:
    curves: dict[str, dict[float, tuple[float, tuple[float, float] | None]]] = {
        "AT": {0.0: (90.0, (88.0, 92.0)), 0.1: (80.0, (76.0, 84.0)), 0.2: (70.0, None)},
        "AT-LR": {0.0: (91.0, None), 0.2: (70.0, None)},
    }
    figure = plot_mean_accuracy(curves)
    (axes,) = figure.axes
    for bars, row in zip(bars_of(axes), curves.values(), strict=True):
        assert list(bars.lines[0].get_ydata()) == [mean for mean, _ in row.values()]
        if bars.has_yerr:
            drawn = [np.reshape(segment, (-1, 2))[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
            assert drawn == [[] if ends is None else list(ends) for _, ends in row.values()]
    assert [bars.has_yerr for bars in bars_of(axes)] == [True, False]
    assert legend_of(figure) == ["AT", "AT-LR"]


def test_mean_accuracy_marks_the_radius_of_training_too() -> None:
    figure = plot_mean_accuracy({"AT": {0.0: (90.0, None), 0.1: (80.0, None)}}, training_eps=0.1, norm="Linf")
    (axes,) = figure.axes
    assert marked_radii(axes) == [("training eps 0.1", 0.1)]
    assert axes.get_xlabel() == "eps (Linf)"
    assert legend_of(figure) == ["AT"]


DIFFERENCES: dict[str, dict[str, tuple[float, float | None]]] = {
    "gamma=0.1": {"clean": (0.5, 1.0), "pgd": (-1.0, 0.25)},
    "gamma=1.0": {"clean": (2.0, None)},
}


def test_differences_are_points_with_intervals_beside_the_line_of_none() -> None:
    figure = plot_differences(DIFFERENCES, xlabel="percentage points")
    (axes,) = figure.axes
    points = [tuple(bars.lines[0].get_xydata()[0]) for bars in bars_of(axes)]
    assert points == [(0.5, pytest.approx(-0.2)), (2.0, pytest.approx(0.8)), (-1.0, pytest.approx(0.2))]
    ends = [bars.lines[2][0].get_segments()[0][:, 0].tolist() for bars in bars_of(axes) if bars.has_xerr]
    assert ends == [[-0.5, 1.5], [-1.25, -0.75]]
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["gamma=0.1", "gamma=1.0"]
    assert legend_of(figure) == ["clean", "pgd"]
    assert axes.get_xlabel() == "percentage points"


def test_no_difference_is_in_the_middle() -> None:
    for rows in (DIFFERENCES, {"gamma": {"clean": (-0.5, None)}}, {"gamma": {"clean": (0.0, None)}}):
        low, high = plot_differences(rows, xlabel="").axes[0].get_xlim()
        assert low == -high < 0


def test_a_single_pair_is_a_hollow_point_with_nothing_drawn_over_it() -> None:
    (axes,) = plot_differences(DIFFERENCES, xlabel="").axes
    faces = {line.get_xdata()[0]: line.get_markerfacecolor() for line in axes.lines if line.get_marker() in ("o", "s")}
    assert faces == {0.5: COLORS[0], 2.0: "white", -1.0: COLORS[1]}
    assert sum(list(line.get_xdata()) == [2.0] for line in axes.lines) == 1


def test_difference_curves_lie_around_the_line_of_none() -> None:
    curves = {"under pgd": {0.0: (-0.5, (-1.0, 0.0)), 0.3: (0.25, (-0.25, 0.75))}}
    figure = plot_difference_curves(curves, bars="95 % interval", training_eps=0.3, norm="Linf")
    (axes,) = figure.axes
    assert list(lines_of(axes)["under pgd"].get_ydata()) == [-0.5, 0.25]
    assert any(list(line.get_ydata()) == [0, 0] for line in axes.lines)
    assert axes.get_ylim() == pytest.approx((-1.1, 1.1))
    assert axes.get_ylabel() == "difference in accuracy\n(percentage points; above 0: better)"
    assert legend_of(figure) == ["under pgd"]


@pytest.mark.parametrize("wrong", [{}, {"gamma": {}}])
def test_no_difference_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least one method, each with at least one metric, got"):
        plot_differences(wrong, xlabel="")


NAMES = [f"method_{i} of a long name,\nwith settings that\ntell it from others" for i in range(10)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_mean_accuracy({name: {0.0: (90.0, None), 0.3: (80.0, None)} for name in NAMES}),
        lambda: plot_difference_curves({name: {0.0: (-1.0, None), 0.3: (1.0, None)} for name in NAMES}),
        lambda: plot_differences({name: {"clean": (1.0, 0.5)} for name in NAMES}, xlabel="points"),
        lambda: plot_differences({"AT": dict.fromkeys(NAMES, (1.0, 0.5))}, xlabel="points"),
        lambda: plot_rg_scores({name: {"pgd": 500.0} for name in NAMES}),
        lambda: plot_rg_scores({"AT": dict.fromkeys(NAMES, 500.0)}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_many_names_in_several_lines_leave_room_for_the_axes_and_do_not_touch(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().height * figure.get_figheight() > 0.9
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
