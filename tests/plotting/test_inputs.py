"""What the figures of clean and adversarial inputs show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor, nn

from lsa_lightning.plotting import plot_adversarial_images, plot_decision_boundary


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    x_adv = x + torch.tensor([[0.1, 0.1], [0.75, 0.0], [-0.25, 0.0], [0.1, 0.1]])
    return plot_decision_boundary(model, x, torch.tensor([0, 0, 1, 1]), x_adv), model


@pytest.mark.parametrize("logits", [1, 2])
def test_the_boundary_lies_where_the_probability_is_one_half(logits: int) -> None:
    figure, _ = plane(logits)
    (line,) = [c for c in figure.axes[0].collections if list(getattr(c, "levels", ())) == [0.5]]
    (path,) = [path for path in line.get_paths() if len(path.vertices)]
    assert path.vertices[:, 0].tolist() == pytest.approx([0.5] * len(path.vertices), abs=1e-3)


def test_points_of_both_classes_and_where_those_that_cross_go() -> None:
    figure, _ = plane()
    drawn = {str(c.get_label()): c.get_offsets() for c in figure.axes[0].collections if isinstance(c, PathCollection)}
    assert set(drawn) == {f"class {c}{kind}" for c in (0, 1) for kind in ("", ", moved across")}
    assert [list(point) for point in drawn["class 0"]] == [[-1.0, 0.0], [0.0, 1.0]]
    assert [list(point) for point in drawn["class 0, moved across"]] == [[0.75, 1.0]]
    assert len(drawn["class 1, moved across"]) == 0  # 0.75 is still right of the boundary
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[0.0, 1.0], [0.75, 1.0]]]
    assert legend_of(figure) == list(drawn)


def test_the_regions_have_the_hues_of_their_points_and_differ_in_grey() -> None:
    figure, _ = plane()
    colors = next(c for c in figure.axes[0].collections if len(getattr(c, "levels", ())) > 1).get_facecolor()
    (r0, _, b0), (r1, _, b1) = colors[0, :3], colors[-1, :3]
    assert b0 > r0  # blue, as class 0
    assert r1 > b1  # orange, as class 1
    grey = colors[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < 0).all()
    assert grey[0] - grey[-1] > 0.1


def test_the_plane_says_how_far_points_were_moved_and_how_many_cross() -> None:
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    figure = plot_decision_boundary(Half(1), x, y, x - 0.6, attacked="pgd, eps 0.6 (Linf)")
    assert figure.axes[0].get_title() == (
        "What the model predicts over the plane;\npgd, eps 0.6 (Linf): 1 of 2 points cross the boundary"
    )


def test_the_plane_shows_every_point_and_the_model_keeps_its_mode() -> None:
    figure, model = plane()
    (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert low <= -1
    assert high >= 2.1
    assert bottom <= 0
    assert top >= 1.1
    assert model.training
    assert figure.axes[1].get_xlabel() == "predicted probability of class 1"


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 1, 2), (0, 2)])
def test_points_outside_of_a_plane_are_refused(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"expected points of shape \[N, 2\], N >= 1, got"):
        plot_decision_boundary(Half(1), x, torch.zeros(4), x)


def test_partners_and_labels_must_fit_the_points() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(3, 2\)"):
        plot_decision_boundary(Half(1), x, torch.zeros(4), x[:3])
    with pytest.raises(ValueError, match="expected 4 labels 0 or 1, got 3"):
        plot_decision_boundary(Half(1), x, torch.zeros(3), x)
    with pytest.raises(ValueError, match=r"expected 4 labels 0 or 1, got 4, among them \[0, 2\]"):
        plot_decision_boundary(Half(1), x, torch.tensor([0, 0, 2, 2]), x)


def images(channels: int = 1, move: float = 0.2) -> Figure:
    x = torch.full((2, channels, 4, 5), 0.4)
    x_adv = x.clone()
    x_adv[0, :, 0, 0], x_adv[1, :, 0, 0] = 0.4 + move, 0.4 - move / 2
    return plot_adversarial_images(x, x_adv, torch.tensor([3, 7]), torch.tensor([3, 1]), torch.tensor([8, 7]))


def shown(figure: Figure, row: int, column: int) -> np.ndarray:
    return np.asarray(figure.axes[2 * row + column].images[0].get_array())


@pytest.mark.parametrize("channels", [1, 3])
def test_images_show_clean_adversarial_and_scaled_difference(channels: int) -> None:
    figure = images(channels)
    assert len(figure.axes) == 6
    assert [figure.axes[i].get_ylabel() for i in (0, 2, 4)] == ["clean", "adversarial", "difference"]
    expected = {0: (0.4, 0.4), 1: (0.6, 0.3), 2: (1.0, 0.25)}  # difference: 0.5 + d / (2 * 0.2)
    for row, corners in expected.items():
        for column, corner in enumerate(corners):
            image = shown(figure, row, column)
            assert image.shape == ((4, 5) if channels == 1 else (4, 5, 3))  # one channel is drawn in grey
            np.testing.assert_allclose(image[0, 0], corner, atol=1e-6)
            np.testing.assert_allclose(image[1:], 0.5 if row == 2 else 0.4, atol=1e-6)
    assert figure.get_suptitle().endswith("difference: white +0.2, mid-grey 0, black -0.2")


def test_images_carry_class_and_predictions_with_wrong_ones_in_bold() -> None:
    axes = images().axes
    assert [a.get_title() for a in axes[:2]] == ["class 3", "class 7"]
    labels = [a.xaxis.label for a in axes[:4]]
    assert [label.get_text() for label in labels] == ["as 3", "as 1", "as 8", "as 7"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "bold", "normal"]


def test_title_and_lines_above_each_image() -> None:
    x, label = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    figure = plot_adversarial_images(x, x, label, label, label, title="the worst", titles=["0.9", "0.8"])
    assert figure.get_suptitle().startswith("the worst\n")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["class 0\n0.9", "class 1\n0.8"]


def test_no_difference_is_grey_and_said_in_words() -> None:
    figure = images(move=0.0)
    np.testing.assert_array_equal(shown(figure, 2, 0), 0.5)
    assert figure.get_suptitle().endswith("difference: none")


def test_bounds_are_black_and_white() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    label = torch.tensor([0])
    figure = plot_adversarial_images(x, x, label, label, label, bounds=(-1.0, 1.0))
    assert np.asarray(figure.axes[0].images[0].get_array()).flatten().tolist() == [0.0, 0.5, 1.0]


X, LABELS = torch.zeros(2, 1, 4, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], X[0], LABELS, LABELS, LABELS), "expected x and x_adv of the same shape"),
        ((X, X[:1], LABELS, LABELS, LABELS), "expected x and x_adv of the same shape"),
        ((X[:0], X[:0], LABELS[:0], LABELS[:0], LABELS[:0]), "expected x and x_adv of the same shape"),
        ((X.expand(2, 2, 4, 4), X.expand(2, 2, 4, 4), LABELS, LABELS, LABELS), r"\[N, 1 or 3, H, W\], N >= 1, got"),
        ((X, X, LABELS, LABELS[:1], LABELS), r"of shape \[2\], got \[\(2,\), \(1,\), \(2,\)\]"),
        ((X, X, LABELS, LABELS, LABELS, (1.0, 1.0)), r"expected bounds low < high, got \(1.0, 1.0\)"),
    ],
)
def test_images_of_wrong_shapes_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_adversarial_images(*arguments)


@pytest.mark.parametrize("draw", [images, lambda: plane()[0]])
def test_a_saved_figure_is_a_png_that_is_not_blank(tmp_path: Path, draw: object) -> None:
    assert callable(draw)
    draw().savefig(tmp_path / "figure.png")
    pixels = matplotlib.image.imread(tmp_path / "figure.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels[..., :3].std() > 0.05
