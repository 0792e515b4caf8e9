"""The measures over sixty decades, against NumPy in extended precision."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lsa_lightning.functional import (
    centered_relative_error,
    centered_relative_error_over_batch,
    cosine_distance,
    relative_error,
    relative_spread,
    representations,
)
from lsa_lightning.measures import CosineDistance, RelativeError

Rows = np.ndarray
Measure = Callable[[Tensor, Tensor], Tensor]


def norm(rows: Rows) -> Rows:
    return np.sqrt((rows**2).sum(-1))


def oracle_relative(clean: Rows, perturbed: Rows) -> Rows:
    return norm(clean - perturbed) / norm(clean)


def oracle_centered(clean: Rows, perturbed: Rows) -> Rows:
    return norm(clean - perturbed) / norm(clean - clean.mean(0))


def oracle_cosine(clean: Rows, perturbed: Rows) -> Rows:
    return 1 - (clean * perturbed).sum(-1) / (norm(clean) * norm(perturbed))


def oracle_centered_over_batch(clean: Rows, perturbed: Rows) -> Rows:
    return norm((clean - perturbed).reshape(-1)) / norm((clean - clean.mean(0)).reshape(-1))


CASES: dict[str, tuple[Measure, Callable[[Rows, Rows], Rows]]] = {
    "relative": (relative_error, oracle_relative),
    "centered": (centered_relative_error, oracle_centered),
    "cosine": (cosine_distance, oracle_cosine),
    "relative over batch": (
        RelativeError().over_batch,
        lambda clean, perturbed: oracle_relative(clean.reshape(-1), perturbed.reshape(-1)),
    ),
    "centered over batch": (centered_relative_error_over_batch, oracle_centered_over_batch),
    "cosine over batch": (
        CosineDistance().over_batch,
        lambda clean, perturbed: oracle_cosine(clean.reshape(-1), perturbed.reshape(-1)),
    ),
}


@st.composite
def scaled_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Clean and perturbed rows in float32, whose norm is anything from 1e-30 to 1e30."""
    samples, features = draw(st.integers(2, 5)), draw(st.sampled_from([2, 17, 1000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    unit = rows / rows.norm(dim=1, keepdim=True)
    scale = 10.0 ** draw(st.floats(-30, 30))
    moved = unit + 10.0 ** draw(st.floats(-2, 2)) * noise / noise.norm(dim=1, keepdim=True)
    return (scale * unit).float(), (scale * moved).float()


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(pair=scaled_pairs())
def test_values_are_right_over_sixty_decades(name: str, pair: tuple[Tensor, Tensor]) -> None:
    measure, oracle = CASES[name]
    expected = oracle(*(side.numpy().astype(np.longdouble) for side in pair))
    np.testing.assert_allclose(measure(*pair).numpy(), expected.astype(np.float64), rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(pair=scaled_pairs())
def test_gradients_are_right_over_sixty_decades(name: str, pair: tuple[Tensor, Tensor]) -> None:
    measure, _ = CASES[name]
    sides = [side.requires_grad_() for side in pair]
    got = torch.autograd.grad(measure(*sides).sum(), sides)
    # In float64 nothing overflows here.
    wide = [side.detach().double().requires_grad_() for side in pair]
    expected = torch.autograd.grad(measure(*wide).sum(), wide)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@settings(max_examples=60, deadline=None)
@given(pair=scaled_pairs())
def test_the_gradient_of_the_relative_error_is_the_formulas(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = (side.requires_grad_() for side in pair)
    relative_error(clean, perturbed).sum().backward()
    c, p = (side.detach().numpy().astype(np.longdouble) for side in pair)
    distance, length = norm(c - p)[:, None], norm(c)[:, None]
    into_perturbed = (p - c) / (distance * length)
    into_clean = -into_perturbed - distance * c / length**3
    for side, expected in ((clean, into_clean), (perturbed, into_perturbed)):
        assert side.grad is not None
        tolerance = 1e-3 * np.abs(expected).max()
        np.testing.assert_allclose(side.grad.numpy(), expected.astype(np.float64), rtol=1e-3, atol=float(tolerance))


def test_a_layer_of_tiny_or_huge_norm_has_the_error_of_its_function() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1000, generator=generator)
    perturbed = clean + 0.1 * torch.rand(4, 1000, generator=generator)
    for scale in (1e-34, 1e-16, 1e17, 3.5e18, 1e33):
        torch.testing.assert_close(relative_error(scale * clean, scale * perturbed), relative_error(clean, perturbed))


@settings(max_examples=30, deadline=None)
@given(pair=scaled_pairs())
def test_a_gpu_on_which_nothing_is_asked_gives_the_same(pair: tuple[Tensor, Tensor]) -> None:
    def value_and_gradients() -> list[Tensor]:
        sides = [side.clone().requires_grad_() for side in pair]
        value = relative_error(*sides)
        return [value.detach(), *torch.autograd.grad(value.sum(), sides)]

    asking = value_and_gradients()
    with patch.object(representations, "runs_ahead", lambda device: True):
        for one, other in zip(asking, value_and_gradients(), strict=True):
            torch.testing.assert_close(one, other)


def test_a_small_angle_keeps_its_digits() -> None:
    clean, perturbed = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1e-3]])
    np.testing.assert_allclose(cosine_distance(clean, perturbed).numpy(), 1 - np.cos(np.arctan(1e-3)), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e4])
def test_half_precision_inputs_are_compared_as_what_they_hold(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = (scale * torch.randn(3, 400, generator=generator)).to(dtype)
    perturbed = (scale * torch.randn(3, 400, generator=generator)).to(dtype)
    for measure, oracle in CASES.values():
        expected = oracle(clean.double().numpy(), perturbed.double().numpy())
        np.testing.assert_allclose(measure(clean, perturbed).numpy(), expected, rtol=1e-3)


def test_a_dead_row_has_no_gradient_in_any_measure() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    for measure, _ in CASES.values():
        clean, perturbed = rows.clone().requires_grad_(), (rows + 1).requires_grad_()
        value = measure(clean, perturbed)
        gradients = torch.autograd.grad(value.sum(), [clean, perturbed])
        assert value.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)
    cosine_to_dead = torch.zeros(1, 2, requires_grad=True)
    cosine_distance(cosine_to_dead, torch.ones(1, 2)).sum().backward()
    assert cosine_to_dead.grad is not None
    assert not cosine_to_dead.grad.any()


@pytest.mark.parametrize("value", [5.0, 0.1, 1e-20, 1e25])
def test_a_constant_layer_scores_1_whatever_its_mean_is_rounded_to(value: float) -> None:
    constant = torch.full((7, 3), value)
    assert centered_relative_error(constant, constant).tolist() == [1.0] * 7
    assert float(centered_relative_error_over_batch(constant, constant)) == 1.0
    assert float(relative_spread(constant)) == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1.0, 1e20, 1e30])
def test_the_spread_does_not_depend_on_the_scale(scale: float) -> None:
    rows = scale * torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(relative_spread(rows)) == pytest.approx(0.5**0.5)
    assert float(relative_spread(0 * rows)) == 0.0


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_to_compare_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"got the empty shape \("):
        relative_error(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_comes_out_again(value: float) -> None:
    broken = torch.tensor([[value, 1.0], [1.0, 2.0]])
    for measure, _ in CASES.values():
        assert not measure(broken, torch.ones(2, 2)).isfinite().all()
