"""What the figures show."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from lsa_lightning import SustainabilityReport
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.plotting import plot_accuracy, plot_decision_boundary, plot_profiles

LAYERS = ["conv1", "conv2", "fc"]
TABLE = RobustnessTable([0.0, 0.1, 0.2], {"fgsm": [90.0, 80, 70], "pgd": [90.0, 75, 60]}, 10)


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


@pytest.mark.parametrize("wrong", [{}, {"a": report(0.1, 0.2, 0.3), "b": report(0.1, layers=["conv1"])}])
def test_profiles_of_different_layers_are_refused(wrong: dict[str, SustainabilityReport]) -> None:
    with pytest.raises(ValueError, match="expected reports of the same layers, at least one"):
        plot_profiles(wrong)


def test_accuracy_has_a_line_per_attack_with_its_score() -> None:
    (axes,) = plot_accuracy(TABLE).axes
    assert [line.get_label() for line in axes.lines] == ["fgsm (R&G 240.0)", "pgd (R&G 225.0)"]
    assert [list(line.get_ydata()) for line in axes.lines] == list(TABLE.accuracy.values())
    assert [list(line.get_xdata()) for line in axes.lines] == [TABLE.eps] * 2
    assert axes.get_legend() is not None
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("eps", "accuracy (%)")


def test_lines_differ_in_colour_marker_and_style() -> None:
    (axes,) = plot_accuracy(TABLE).axes
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(line, look)() for line in axes.lines}) == 2


class Half(nn.Module):
    """Class 1 right of x1 = 0.5; one or two logits; knows its mode."""

    def __init__(self, logits: int) -> None:
        super().__init__()
        self.logits = logits
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        z = self.dropout(10 * (x[:, :1] - 0.5))
        return z if self.logits == 1 else torch.cat([torch.zeros_like(z), z], dim=1)


def plane(logits: int = 1) -> tuple[Figure, Half]:
    model = Half(logits)
    x = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    return plot_decision_boundary(model, x, torch.tensor([0, 0, 1, 1]), x + 0.1), model


@pytest.mark.parametrize("logits", [1, 2])
def test_the_boundary_lies_where_the_probability_is_one_half(logits: int) -> None:
    figure, _ = plane(logits)
    (line,) = [c for c in figure.axes[0].collections if list(getattr(c, "levels", ())) == [0.5]]
    (path,) = [path for path in line.get_paths() if len(path.vertices)]
    assert path.vertices[:, 0].tolist() == pytest.approx([0.5] * len(path.vertices), abs=1e-3)


def test_points_of_both_classes_clean_and_adversarial() -> None:
    figure, _ = plane()
    drawn = {str(c.get_label()): c.get_offsets() for c in figure.axes[0].collections if isinstance(c, PathCollection)}
    assert set(drawn) == {f"class {c}, {kind}" for c in (0, 1) for kind in ("clean", "adversarial")}
    assert [list(point) for point in drawn["class 0, clean"]] == [[-1.0, 0.0], [0.0, 1.0]]
    assert [point[0] for point in drawn["class 1, adversarial"]] == pytest.approx([1.1, 2.1])
    assert legend_of(figure) == list(drawn)


def test_the_plane_shows_every_point_and_the_model_keeps_its_mode() -> None:
    figure, model = plane()
    (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert low <= -1
    assert high >= 2.1
    assert bottom <= 0
    assert top >= 1.1
    assert model.training
    assert figure.axes[1].get_ylabel() == "predicted probability of class 1"


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 1, 2)])
def test_points_outside_of_a_plane_are_refused(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"expected points of shape \[N, 2\], got"):
        plot_decision_boundary(Half(1), x, torch.zeros(4), x)


@pytest.mark.parametrize("draw", [lambda: plot_profiles(reports(), ["fc"]), lambda: plane()[0]])
def test_a_saved_figure_is_a_png_that_is_not_blank(tmp_path: Path, draw: object) -> None:
    assert callable(draw)
    draw().savefig(tmp_path / "figure.png")
    pixels = matplotlib.image.imread(tmp_path / "figure.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels[..., :3].std() > 0.05
