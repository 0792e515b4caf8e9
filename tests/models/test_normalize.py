"""Normalisation as a layer."""

from __future__ import annotations

import pytest
import torch

from lsa_lightning.models import Normalize

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (4, 3, 2, 2, 2)])
def test_each_channel_has_its_own_constants(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    y = Normalize(MEAN, STD)(x)
    for channel in range(3):
        torch.testing.assert_close(y[:, channel], (x[:, channel] - MEAN[channel]) / STD[channel])


def test_gradients_are_divided_by_the_deviation() -> None:
    x = torch.rand(2, 3, requires_grad=True)
    Normalize(MEAN, STD)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[2.0, 1.0, 0.5]] * 2))


def test_the_constants_move_with_the_module_but_are_not_stored() -> None:
    layer = Normalize(MEAN, STD)
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []
    assert layer.to(torch.float64)(torch.rand(1, 3, dtype=torch.float64)).dtype == torch.float64


def test_the_constants_are_printed() -> None:
    assert repr(Normalize([0.5], [0.25])) == "Normalize(mean=[0.5], std=[0.25])"


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.1,), (0.1, 0.2)), ((0.1,), (0.0,)), ((0.1, 0.1), (1.0, -1.0))])
def test_wrong_constants_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"Normalize: expected (mean|std).* to be .*, got "):
        Normalize(mean, std)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected inputs with 3 channels in dimension 1, got \(2, 1, 4, 4\)"):
        Normalize(MEAN, STD)(torch.zeros(2, 1, 4, 4))


def test_the_one_channel_of_grey_images_is_repeated() -> None:
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(Normalize([0.5], [0.25], channels=3)(x), ((x - 0.5) / 0.25).repeat(1, 3, 1, 1))
    colours = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize([0.5] * 3, [0.25] * 3, channels=3)(colours), (colours - 0.5) / 0.25)


def test_two_channels_are_not_made_three() -> None:
    with pytest.raises(
        ValueError, match=r"expected mean to be one value, or one for each of 3 channels, got \[0.5, 0.5\]"
    ):
        Normalize([0.5, 0.5], [1.0, 1.0], channels=3)
