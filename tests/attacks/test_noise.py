from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.helpers.attack_cases import NOISES
from torch import Tensor

from lsa_lightning.attacks import GaussianNoise, PepperNoise, SaltNoise, SpeckleNoise
from lsa_lightning.attacks.noise import Noise

X = torch.full((40, 500), 0.5)
Y = torch.zeros(40, dtype=torch.long)


def no_model(x: Tensor) -> Tensor:
    raise AssertionError


def delta(noise: Noise, x: Tensor = X) -> Tensor:
    return noise(no_model, x, Y) - x


@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_gaussian_noise_has_half_of_eps_as_deviation_and_is_cut_at_eps(eps: float) -> None:
    moved = delta(GaussianNoise(eps, seed=0)) / (eps / 2)
    inside = moved[moved.abs() < 1.999]
    assert float(moved.mean()) == pytest.approx(0.0, abs=0.03)
    assert len(inside) / moved.numel() == pytest.approx(math.erf(2 / math.sqrt(2)), abs=0.005)
    assert float((moved.abs() < 1).float().mean()) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.015)
    assert float(moved.abs().max()) == pytest.approx(2.0, abs=1e-5)


def test_speckle_noise_is_proportional_to_the_input() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(40000, 4)
    y = torch.zeros(40000, dtype=torch.long)
    moved = SpeckleNoise(0.1, bounds=None, seed=0)(no_model, x, y) - x
    assert float(moved[:, 0].abs().max()) == 0.0
    # The first columns are hardly ever cut at eps; the last one is, at two standard deviations.
    assert float(moved[:, 1].std()) == pytest.approx(0.25 * 0.05, rel=0.03)
    assert float(moved[:, 2].std()) == pytest.approx(0.5 * 0.05, rel=0.03)
    assert float(moved[:, 3].abs().max()) == pytest.approx(0.1, abs=1e-6)


def test_speckle_noise_of_negative_inputs_is_symmetric() -> None:
    x = torch.full((40, 500), -0.5)
    moved = SpeckleNoise(0.2, bounds=None, seed=0)(no_model, x, Y) - x
    torch.testing.assert_close(moved, -delta(SpeckleNoise(0.2, bounds=None, seed=0)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("amount", [0.05, 0.4])
@pytest.mark.parametrize(("noise", "sign"), [(SaltNoise, 1.0), (PepperNoise, -1.0)])
def test_salt_and_pepper_move_a_share_of_the_coordinates_by_eps(
    noise: Callable[..., Noise], sign: float, amount: float
) -> None:
    moved = delta(noise(0.2, amount=amount, seed=0))
    hit = moved != 0
    assert float(hit.float().mean()) == pytest.approx(amount, abs=0.015)
    torch.testing.assert_close(moved[hit], torch.full_like(moved[hit], 0.2 * sign))


@pytest.mark.parametrize(("noise", "extreme"), [(SaltNoise, 1.0), (PepperNoise, 0.0)])
def test_with_eps_1_on_pixels_salt_is_white_and_pepper_black(noise: Callable[..., Noise], extreme: float) -> None:
    x = torch.rand(40, 500) * 0.8 + 0.1
    out = noise(1.0, amount=0.3, seed=0)(no_model, x, Y)
    hit = out != x
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=0.015)
    assert (out[hit] == extreme).all()


@pytest.mark.parametrize(("amount", "share"), [(0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("noise", [SaltNoise, PepperNoise])
def test_amounts_0_and_1(noise: Callable[..., Noise], amount: float, share: float) -> None:
    assert float((delta(noise(0.1, amount=amount)) != 0).float().mean()) == share


@pytest.mark.parametrize("noise", NOISES)
def test_a_larger_eps_perturbs_more(noise: str) -> None:
    sizes = [float(delta(NOISES[noise](eps, (0.0, 1.0))).abs().mean()) for eps in (0.0, 0.05, 0.1, 0.4)]
    assert sizes[0] == 0.0
    assert sizes == sorted(sizes)
    assert sizes[2] / sizes[1] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_noise_is_projected_to_the_bounds(noise: str, value: float) -> None:
    x = torch.full((40, 500), value)
    out = NOISES[noise](0.3, (0.0, 1.0))(no_model, x, Y)
    assert float(out.min()) >= 0.0
    assert float(out.max()) <= 1.0


@pytest.mark.parametrize("noise", NOISES)
def test_the_same_noise_in_low_precision(noise: str) -> None:
    wide = NOISES[noise](0.2, (0.0, 1.0))(no_model, X, Y)
    for dtype in (torch.float16, torch.bfloat16):
        got = NOISES[noise](0.2, (0.0, 1.0))(no_model, X.to(dtype), Y).float()
        torch.testing.assert_close(got, wide, atol=0.005, rtol=0)


@pytest.mark.parametrize("noise", [GaussianNoise, SpeckleNoise, SaltNoise, PepperNoise])
def test_in_l2_each_coordinate_gets_its_share_of_eps(noise: Callable[..., Noise]) -> None:
    linf = delta(noise(0.1, seed=0))
    l2 = delta(noise(0.1 * math.sqrt(500), norm="L2", seed=0))
    torch.testing.assert_close(l2, linf.where(linf.abs() < 0.0999, l2), atol=1e-6, rtol=0)  # Linf cuts at eps
    assert float(l2.norm(dim=1).max()) <= 0.1 * math.sqrt(500)


@pytest.mark.parametrize("noise", [SaltNoise, PepperNoise])
@pytest.mark.parametrize("amount", [-0.1, 1.1, math.nan])
def test_amount_must_be_a_share(noise: Callable[..., Noise], amount: float) -> None:
    with pytest.raises(ValueError, match=rf"expected amount.* in \[0, 1\], got {amount}"):
        noise(0.1, amount=amount)
