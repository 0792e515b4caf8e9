"""What the figures of single classes show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from lsa_lightning.plotting import plot_class_accuracy, plot_confusion

CONFUSION = [[3, 1], [0, 2]]


def test_the_confusion_is_a_map_in_percent_of_each_class() -> None:
    axes, scale = plot_confusion(CONFUSION, attacked="pgd, eps 0.3 (Linf)").axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25], [0, 100]])
    assert axes.images[0].get_clim() == (0, 100)
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "100"]
    assert axes.get_xlabel() == "predicted class\nunder pgd, eps 0.3 (Linf)"
    assert (axes.get_ylabel(), scale.get_ylabel()) == ("true class", "% of the samples of a true class")


def test_numbers_are_read_on_dark_and_light_cells_and_colours_rise_in_grey() -> None:
    axes = plot_confusion(CONFUSION).axes[0]
    colors = axes.images[0].get_cmap()(np.linspace(0, 1, 32))[:, :3]
    assert (np.diff(colors @ [0.299, 0.587, 0.114]) > 0).all()
    assert [text.get_color() for text in axes.texts] == ["black", "white", "white", "black"]


def test_many_classes_have_no_numbers_and_few_ticks_and_a_class_may_have_no_sample() -> None:
    axes = plot_confusion([[0] * 100] * 100).axes[0]
    assert not axes.texts
    assert list(axes.get_yticks()) == list(range(0, 100, 10))


def test_a_class_without_samples_has_no_numbers() -> None:
    axes = plot_confusion([[5, 1, 0], [0, 0, 0], [1, 0, 4]]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["83", "17", "0", "20", "0", "80"]
    assert np.isnan(np.ma.filled(axes.images[0].get_array(), np.nan)[1]).all()
    assert axes.patch.get_hatch()


@pytest.mark.parametrize("wrong", [[], [[1, 2]], [[1, 2], [1]], [[-1]]])
def test_what_is_no_square_of_counts_is_refused(wrong: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"expected counts of shape \[C, C\], C >= 1"):
        plot_confusion(wrong)


def test_each_class_has_its_accuracies_with_their_intervals_side_by_side() -> None:
    rows = {
        "clean": [(90.0, (85.0, 94.0)), (math.nan, (math.nan, math.nan))],
        "pgd": [(50.0, (40.0, 60.0)), (math.nan, (math.nan, math.nan))],
    }
    figure = plot_class_accuracy(rows, samples=40)
    clean, pgd = (c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer))
    assert [float(c.lines[0].get_xdata()[0]) for c in (clean, pgd)] == pytest.approx([-0.15, 0.15])
    assert clean.lines[2][0].get_segments()[0][:, 1].tolist() == [85.0, 94.0]
    assert pgd.lines[2][0].get_segments()[0][:, 1].tolist() == [40.0, 60.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clean", "pgd"]
    assert figure.axes[0].get_xlabel() == "true class, 40 samples in all"


@pytest.mark.parametrize("wrong", [{}, {"clean": []}, {"clean": [(1.0, (0.0, 2.0))], "pgd": []}])
def test_rows_must_be_of_one_length(wrong: dict[str, list[tuple[float, tuple[float, float]]]]) -> None:
    with pytest.raises(ValueError, match="expected at least one row, each with an accuracy per class"):
        plot_class_accuracy(wrong)
