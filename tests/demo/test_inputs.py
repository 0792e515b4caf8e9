from __future__ import annotations

import numpy as np
import pytest
import torch

from lsa_lightning.demo import Canvas, Plane

PLANE = Plane(torch.tensor([[-1.7, 0.0], [0.7, 4.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]), pixels=201)


def test_corners_of_the_plane() -> None:
    torch.testing.assert_close(PLANE.at(0, 0), torch.tensor([[-2.0, 4.3]]))
    torch.testing.assert_close(PLANE.at(200, 200), torch.tensor([[1.0, -0.3]]))
    torch.testing.assert_close(PLANE.at(100, 100), torch.tensor([[-0.5, 2.0]]))


def test_the_grid_goes_row_by_row_from_below() -> None:
    grid = PLANE.grid(3).view(3, 3, 2)
    torch.testing.assert_close(grid[0, :, 0], torch.tensor([-2.0, -0.5, 1.0]))
    torch.testing.assert_close(grid[:, 0, 1], torch.tensor([-0.3, 2.0, 4.3]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_any_size_becomes_an_input(channels: int) -> None:
    picture = np.zeros((50, 30, 4), dtype=np.uint8)
    picture[:25, :, :3] = 255
    x = Canvas((channels, 10, 10), bounds=(-1.0, 1.0)).read(picture)
    assert x.shape == (1, channels, 10, 10)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0, :, 0], torch.ones(channels, 10))
    torch.testing.assert_close(x[0, :, -1], -torch.ones(channels, 10))


def test_grey_values_are_those_of_pillow() -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = torch.from_numpy(np.array(Image.fromarray(picture).convert("L"))) / 255
    torch.testing.assert_close(Canvas((1, 8, 8)).read(picture)[0, 0], expected, rtol=0, atol=1 / 255)


def test_no_picture_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="expected a picture, got none: draw one, or upload a file"):
        Canvas((1, 8, 8)).read(None)
