from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.demo import Plane, adversarial_partner
from lsa_lightning.demo.pictures import PlanePicture, layer_bars
from lsa_lightning.models import MLP

PLANE = Plane(torch.tensor([[-0.7, -0.7], [0.7, 0.7]]), torch.tensor([0, 1]), pixels=200)


class _RightHalf(nn.Module):
    """Class 1 where x1 > 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * x[:, :1]


def test_each_pixel_of_the_plane_is_a_place() -> None:
    picture = PlanePicture(_RightHalf(), PLANE)
    assert picture.shades[:, 0].max() < 0.01
    assert picture.shades[:, -1].min() > 0.99
    drawn = picture.draw().astype(int)
    assert drawn.shape == (200, 200, 3)
    boundary = drawn.sum(axis=2)[150]  # dark, in the middle
    assert abs(int(boundary.argmin()) - 100) <= 2


def test_the_point_and_its_partner_are_drawn_where_they_are() -> None:
    picture = PlanePicture(MLP(), PLANE)
    partner = adversarial_partner(MLP(), ThreatModel("Linf", 0.3, None), "FGSM", PLANE.at(60, 140))
    changed = np.abs(picture.draw(partner).astype(int) - picture.draw().astype(int)).sum(axis=2) > 30
    assert changed[140, 60]
    rows, columns = np.nonzero(changed)
    assert rows.max() - rows.min() < 60
    assert columns.max() - columns.min() < 60


def test_a_bar_for_each_layer_the_first_on_top() -> None:
    report = adversarial_partner(MLP(), ThreatModel("Linf", 0.3, None), "FGSM", torch.zeros(1, 2)).report
    (axes,) = layer_bars(report).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == report.layers
    assert [patch.get_width() for patch in axes.patches] == report.mean.tolist()  # type: ignore[attr-defined]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "relative error"
