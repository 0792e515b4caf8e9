"""What the figures of accuracies and scores show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from lsa_lightning.functional import wilson_interval
from lsa_lightning.plotting import plot_accuracy, plot_differences, plot_mean_accuracy, plot_rg_scores

EPS = [0.0, 0.1, 0.2]
ACCURACY = {"fgsm": [90.0, 80, 70], "pgd": [90.0, 75, 0]}
INTERVALS = {name: [wilson_interval(int(a * 20 / 100), 20) for a in row] for name, row in ACCURACY.items()}
SCORES = {"AT": {"fgsm": 500.0, "pgd": 450.0}, "AT-LR": {"fgsm": 510.5, "pgd": 480.0}}


def lines_of(axes: Axes) -> list[Line2D]:
    """The lines of the legend, without the caps of the error bars."""
    return [line for line in axes.lines if not str(line.get_label()).startswith("_")]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def accuracy_axes(**options: Any) -> Axes:
    (axes,) = plot_accuracy(EPS, ACCURACY, INTERVALS, samples=20, **options).axes
    return axes


def test_accuracy_has_a_line_per_attack() -> None:
    axes = accuracy_axes()
    lines = lines_of(axes)
    assert [line.get_label() for line in lines] == ["fgsm", "pgd"]
    assert [list(line.get_ydata()) for line in lines] == list(ACCURACY.values())
    assert [list(line.get_xdata()) for line in lines] == [EPS] * 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("eps", "accuracy (%),\n95 % interval, 20 samples")


def test_lines_differ_in_colour_marker_and_style() -> None:
    axes = accuracy_axes()
    for look in ("get_color", "get_marker", "get_linestyle", "get_markersize"):
        assert len({getattr(line, look)() for line in lines_of(axes)}) == 2


def test_each_accuracy_has_its_interval() -> None:
    axes = accuracy_axes()
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert len(bars) == 2
    for container, expected in zip(bars, INTERVALS.values(), strict=True):
        drawn = [(float(low[1]), float(high[1])) for low, high in container[2][0].get_segments()]
        assert [end for pair in drawn for end in pair] == pytest.approx([end for pair in expected for end in pair])


def test_no_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="expected accuracies under at least one attack, got none"):
        plot_accuracy(EPS, {}, {}, samples=20)


def training_line(axes: Axes) -> Line2D:
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("training eps")]
    return line


def test_the_radius_of_training_is_a_vertical_line_and_the_axis_names_the_norm() -> None:
    figure = plot_accuracy(EPS, ACCURACY, INTERVALS, samples=20, training_eps=0.15, norm="L2", unit="pixels")
    (axes,) = figure.axes
    assert list(training_line(axes).get_xdata()) == [0.15, 0.15]
    assert axes.get_xlabel() == "eps (L2, pixels)"
    assert legend_of(figure) == ["fgsm", "pgd", "training eps 0.15"]


def test_a_short_interval_is_drawn_over_its_marker_in_black_and_wider() -> None:
    axes = accuracy_axes()
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    for bar, line in zip(bars, lines_of(axes), strict=True):
        _, caps, (segments,) = bar.lines
        assert segments.get_zorder() > line.get_zorder()
        assert segments.get_edgecolor().tolist() == [[0, 0, 0, 1]]
        assert min(cap.get_markersize() for cap in caps) > line.get_markersize()


@pytest.mark.parametrize(("least", "bottom"), [(66.0, 60.0), (64.0, 50.0), (3.0, 0.0)])
def test_the_axis_begins_below_the_least_accuracy(least: float, bottom: float) -> None:
    (axes,) = plot_mean_accuracy({"AT": {0.0: (90.0, None), 0.1: (least, None)}}).axes
    assert axes.get_ylim()[0] == bottom


def bars_of(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """(middle of the bar, its length) of each bar by attack."""
    return {
        str(container.get_label()): [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in container]
        for container in axes.containers
        if isinstance(container, BarContainer)
    }


def test_scores_are_bars_by_method_and_attack() -> None:
    figure = plot_rg_scores(SCORES)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["AT", "AT-LR"]
    assert bars_of(axes) == {
        "fgsm": [(pytest.approx(-0.2), 500.0), (pytest.approx(0.8), 510.5)],
        "pgd": [(pytest.approx(0.2), 450.0), (pytest.approx(1.2), 480.0)],
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fgsm", "pgd"]
    assert {text.get_text() for text in axes.texts} == {"500.0", "510.5", "450.0", "480.0"}
    assert axes.get_xlim()[1] > 510.5


def test_bars_differ_in_colour_and_hatch() -> None:
    (axes,) = plot_rg_scores(SCORES).axes
    bars = [container[0] for container in axes.containers]
    assert len({bar.get_facecolor() for bar in bars}) == len({bar.get_hatch() for bar in bars}) == 2


def test_errors_are_half_widths() -> None:
    errors = {"AT": {"fgsm": 5.0, "pgd": 2.0}, "AT-LR": {"fgsm": 1.0, "pgd": 3.0}}
    (axes,) = plot_rg_scores(SCORES, errors=errors).axes
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    drawn = [[float(right[0] - left[0]) for left, right in bar[2][0].get_segments()] for bar in bars]
    assert drawn == [[10.0, 2.0], [4.0, 6.0]]


def test_no_error_bar_is_drawn_for_nan() -> None:
    (axes,) = plot_rg_scores({"AT": {"pgd": 1.0}}, errors={"AT": {"pgd": np.nan}}).axes
    (bar,) = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert [len(segment) for segment in bar[2][0].get_segments()] == [0]
    assert [text.xy[0] for text in axes.texts if isinstance(text, Annotation)] == [1.0]


def test_axes_say_what_the_error_bars_are() -> None:
    (scores,) = plot_rg_scores(SCORES, errors=SCORES, bars="95 % interval").axes
    assert scores.get_xlabel() == "R&G: sum of the accuracies (%)\nover eps,\nmean and 95 % interval"
    (curves,) = plot_mean_accuracy({"AT": {0.0: (90.0, (88.0, 92.0))}}, bars="95 % interval").axes
    assert curves.get_ylabel() == "accuracy (%),\n95 % interval"
    assert plot_mean_accuracy({"AT": {0.0: (90.0, None)}}).axes[0].get_ylabel() == "accuracy (%)"


def test_the_axis_of_scores_says_how_large_they_can_be() -> None:
    (axes,) = plot_rg_scores(SCORES, most=600.0).axes
    assert axes.get_xlabel() == "R&G: sum of the accuracies (%)\nover eps, at most 600"


def test_what_was_not_measured_says_so_in_its_place() -> None:
    (axes,) = plot_rg_scores({"AT": {"fgsm": 500.0}, "AT-LR": {"fgsm": 510.0, "pgd": 480.0}}).axes
    assert len(bars_of(axes)["pgd"]) == 1
    (missing,) = [text for text in axes.texts if text.get_text() == "not measured"]
    assert missing.xy == (0, pytest.approx(0.2))


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
        "AT": {0.0: (90.0, (88.0, 92.0)), 0.1: (80.0, (76.0, 84.0))},
        "AT-LR": {0.0: (91.0, None), 0.2: (70.0, None)},
    }
    figure = plot_mean_accuracy(curves)
    (axes,) = figure.axes
    for line, row in zip(lines_of(axes), curves.values(), strict=True):
        assert list(line.get_xdata()) == list(row)
        assert list(line.get_ydata()) == [mean for mean, _ in row.values()]
    (bars,) = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert [segment[:, 1].tolist() for segment in bars[2][0].get_segments()] == [[88.0, 92.0], [76.0, 84.0]]
    assert legend_of(figure) == ["AT", "AT-LR"]


def test_mean_accuracy_marks_the_radius_of_training_too() -> None:
    figure = plot_mean_accuracy({"AT": {0.0: (90.0, None), 0.1: (80.0, None)}}, training_eps=0.1, norm="Linf")
    (axes,) = figure.axes
    assert list(training_line(axes).get_xdata()) == [0.1, 0.1]
    assert axes.get_xlabel() == "eps (Linf)"
    assert legend_of(figure) == ["AT", "training eps 0.1"]


DIFFERENCES: dict[str, dict[str, tuple[float, float | None]]] = {
    "gamma=0.1": {"clean": (0.5, 1.0), "pgd": (-1.0, 0.25)},
    "gamma=1.0": {"clean": (2.0, None)},
}


def test_differences_are_points_with_intervals_beside_the_line_of_none() -> None:
    figure = plot_differences(DIFFERENCES, xlabel="percentage points")
    (axes,) = figure.axes
    clean, pgd = (c for c in axes.containers if isinstance(c, ErrorbarContainer))
    assert list(clean.lines[0].get_xdata()) == [0.5, 2.0]
    assert list(clean.lines[0].get_ydata()) == pytest.approx([-0.2, 0.8])
    assert list(pgd.lines[0].get_ydata()) == pytest.approx([0.2])
    first, second = clean.lines[2][0].get_segments()
    assert first[:, 0].tolist() == [-0.5, 1.5]
    assert len(second) == 0
    assert pgd.lines[2][0].get_segments()[0][:, 0].tolist() == [-1.25, -0.75]
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["gamma=0.1", "gamma=1.0"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clean", "pgd"]
    assert axes.get_xlabel() == "percentage points"


def test_a_single_pair_is_a_hollow_point() -> None:
    (axes,) = plot_differences(DIFFERENCES, xlabel="").axes
    (hollow,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert list(hollow.get_xdata()) == [2.0]


@pytest.mark.parametrize("wrong", [{}, {"gamma": {}}])
def test_no_difference_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least one method, each with at least one metric, got"):
        plot_differences(wrong, xlabel="")
