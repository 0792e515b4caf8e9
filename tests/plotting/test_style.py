"""What all figures have in common."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from lsa_lightning.plotting.style import WIDTH, legend_above, new_axes, sign


def height_of_axes(figure: Figure) -> float:
    """In inches, as drawn."""
    figure.draw_without_rendering()
    return float(figure.axes[0].get_position().height * figure.get_figheight())


def lines(*names: str) -> Figure:
    figure, axes = new_axes()
    for name in names:
        axes.plot([0, 1], [0, 1], label=name)
    return figure


def test_a_legend_takes_no_height_of_the_axes() -> None:
    plain, figure = lines(), lines(*(f"method {i}\nin two lines" for i in range(12)))
    legend_above(figure, columns=1, title="one line per method")
    assert height_of_axes(figure) == pytest.approx(height_of_axes(plain), abs=0.15)
    assert figure.legends[0].get_title().get_text() == "one line per method"


@pytest.mark.parametrize(("name", "columns"), [("short", 4), ("a name of twenty letters", 2), ("long " * 10, 1)])
def test_a_legend_has_as_many_columns_as_there_is_room_for(name: str, columns: int) -> None:
    figure = lines(*(f"{name} {i}" for i in range(4)))
    legend_above(figure, columns=4)
    (legend,) = figure.legends
    assert legend._ncols == columns  # type: ignore[attr-defined]
    assert figure.get_figwidth() == WIDTH


@pytest.mark.parametrize("text", ["run: moon, seed 0", "run: " + "long_name_" * 12 + ", seed 0", "run: a$x_{$, seed 0"])
def test_what_a_figure_is_of_stands_at_its_bottom_and_takes_no_height_of_the_axes(text: str) -> None:
    plain, figure = lines("a"), lines("a")
    sign(figure, text)
    assert figure.get_supxlabel().replace("\n", "").replace(" ", "") == text.replace(" ", "")
    assert height_of_axes(figure) == pytest.approx(height_of_axes(plain), abs=0.1)
    assert figure.texts[0].get_window_extent().width < figure.bbox.width
