from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from lsa_lightning.data import CropFlip


@given(
    padding=st.integers(0, 5),
    flip=st.booleans(),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7)),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_equals_padding_slicing_and_flipping_image_by_image(
    padding: int, flip: bool, shape: tuple[int, ...], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    uniform = torch.rand(shape[0], 3, generator=generator)
    original = images.clone()
    found = CropFlip(padding, flip=flip)(images, uniform)
    for image, numbers, result in zip(images, uniform.tolist(), found, strict=True):
        top, left = (int(number * (2 * padding + 1)) for number in numbers[:2])
        expected = F.pad(image, (padding,) * 4)[:, top : top + shape[2], left : left + shape[3]]
        assert torch.equal(result, expected.flip(2) if flip and numbers[2] < 0.5 else expected)
    assert torch.equal(images, original)
    assert found.dtype == torch.uint8


def test_every_place_and_both_mirrors_occur() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[..., 2, 1] = 255
    uniform = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    found = CropFlip(padding=1)(image.expand(500, 1, 5, 5), uniform)
    assert len(found.flatten(1).unique(dim=0)) == 3 * 5


def test_negative_padding() -> None:
    with pytest.raises(ValueError, match="expected padding to be an integer >= 0, got -1"):
        CropFlip(padding=-1)
