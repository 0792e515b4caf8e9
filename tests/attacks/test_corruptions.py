from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import adjust_contrast, gaussian_blur

from lsa_lightning.attacks import Blur, Brightness, Contrast
from lsa_lightning.attacks.corruptions import Corruption

IMAGES = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))
ALL = [Blur, Brightness, Contrast]


def no_model(x: Tensor) -> Tensor:
    raise AssertionError


def corrupt(corruption: Corruption, x: Tensor = IMAGES) -> Tensor:
    return corruption(no_model, x, torch.zeros(len(x), dtype=torch.long))


@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_in_linf_brightness_is_eps_everywhere_up_to_white(eps: float) -> None:
    torch.testing.assert_close(corrupt(Brightness(eps)), (IMAGES + eps).clamp_max(1.0), atol=1e-6, rtol=0)


def test_in_l2_brightness_shares_eps_among_the_coordinates() -> None:
    moved = corrupt(Brightness(0.5, norm="L2", bounds=None)) - IMAGES
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5 / math.sqrt(360)), atol=1e-5, rtol=0)


def test_a_large_eps_leaves_the_given_contrast() -> None:
    grey = IMAGES[:, :1]
    expected = torch.stack([adjust_contrast(image, 0.3) for image in grey])
    torch.testing.assert_close(corrupt(Contrast(1.0, factor=0.3), grey), expected, atol=1e-5, rtol=0)


def test_no_contrast_is_the_mean_of_each_sample() -> None:
    flat = corrupt(Contrast(1.0, factor=0.0))
    torch.testing.assert_close(flat, IMAGES.mean(dim=(1, 2, 3), keepdim=True).expand_as(IMAGES), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_large_eps_shows_the_whole_blur(sigma: float) -> None:
    reach = max(1, round(3 * sigma))
    inside = (..., slice(reach, -reach), slice(reach, -reach))  # torchvision mirrors the edge
    large = torch.rand(2, 3, 20, 18, generator=torch.Generator().manual_seed(1))
    expected = gaussian_blur(large, [2 * reach + 1] * 2, [sigma] * 2)
    torch.testing.assert_close(corrupt(Blur(1.0, sigma), large)[inside], expected[inside], atol=1e-5, rtol=0)


def test_blur_leaves_a_flat_image_alone_also_at_its_edge() -> None:
    flat = torch.full((1, 1, 3, 2), 0.3)
    torch.testing.assert_close(corrupt(Blur(0.5, sigma=3.0), flat), flat, atol=1e-6, rtol=0)


@pytest.mark.parametrize("corruption", ALL)
def test_the_ball_ends_the_corruption(corruption: Callable[..., Corruption]) -> None:
    whole = corrupt(corruption(1.0)) - IMAGES
    for eps in (0.0, 0.02):
        torch.testing.assert_close(corrupt(corruption(eps)) - IMAGES, whole.clamp(-eps, eps), atol=1e-6, rtol=0)
    moved = (corrupt(corruption(0.1, norm="L2")) - IMAGES).flatten(1)
    assert (moved.norm(dim=1) <= 0.1).all()
    assert (moved.norm(dim=1) > 0.09).all() or corruption is Brightness


def test_blur_wants_images() -> None:
    with pytest.raises(ValueError, match=r"expected images \[N, C, H, W\] to blur, got inputs of shape \(4, 2\)"):
        corrupt(Blur(0.1), torch.rand(4, 2))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected factor.* in \[0, 1\], got 1.5"):
        Contrast(0.1, factor=1.5)
    with pytest.raises(ValueError, match=r"expected sigma.* > 0, got 0"):
        Blur(0.1, sigma=0.0)
