from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.helpers.reference_errors import oracle_relative_error
from torch import Tensor

from lsa_lightning.functional import (
    as_rows,
    centered_relative_error,
    centered_relative_error_over_batch,
    cosine_distance,
    relative_error,
    relative_squared_error,
)

# Zero or well above the floor below which a norm counts as zero.
VALUES = st.floats(-100, 100, width=32).map(lambda v: v if abs(v) > 1e-4 else 0.0)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Clean and perturbed representations of one shape ``[N, ...]``."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    return draw(hnp.arrays(np.float32, shape, elements=VALUES)), draw(hnp.arrays(np.float32, shape, elements=VALUES))


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_relative_error_equals_the_oracle(pair: tuple[np.ndarray, np.ndarray]) -> None:
    got = relative_error(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))
    np.testing.assert_allclose(got.numpy(), oracle_relative_error(*pair), rtol=1e-6, atol=1e-6)


def test_relative_error_of_the_papers_formula() -> None:
    clean, perturbed = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [0.0, 5.0]])
    torch.testing.assert_close(relative_error(clean, perturbed), torch.tensor([0.2, 1.5]))


@pytest.mark.parametrize("measure", [relative_error, centered_relative_error, cosine_distance])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_measures_compute_in_float32_at_least(measure: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    # 300 coordinates of 300: the squared norm is far above the largest float16.
    clean = torch.full((2, 300), 300.0, dtype=dtype) * torch.tensor([[1.0], [-1.0]], dtype=dtype)
    value = measure(clean, clean * 0.5)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.isfinite().all()


@pytest.mark.parametrize(("moved", "expected"), [(0.0, 0.0), (1.0, 1.0)])
def test_dead_layer_has_a_finite_relative_error_and_gradient(moved: float, expected: float) -> None:
    clean = torch.zeros(3, 4, requires_grad=True)
    perturbed = torch.full((3, 4), moved, requires_grad=True)
    value = relative_error(clean, perturbed)
    value.sum().backward()
    assert value.tolist() == [expected] * 3
    assert clean.grad is not None
    assert perturbed.grad is not None
    torch.testing.assert_close(clean.grad, torch.zeros(3, 4))
    torch.testing.assert_close(perturbed.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("measure", [relative_error, centered_relative_error, cosine_distance])
def test_gradients_are_finite_where_nothing_moved_or_all_is_dead(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1e-30, 0.0], [3.0, -1.0]])
    clean, perturbed = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    value = measure(clean, perturbed)
    gradients = torch.autograd.grad(value.sum(), [clean, perturbed])
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


def test_one_dead_sample_leaves_the_others_as_they_are() -> None:
    clean, perturbed = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    torch.testing.assert_close(relative_error(clean, perturbed), torch.tensor([1.0, 0.2]))


def test_relative_error_ignores_the_scale_of_the_representation() -> None:
    clean, perturbed = torch.rand(5, 7) + 0.1, torch.rand(5, 7)
    torch.testing.assert_close(relative_error(clean * 1e-5, perturbed * 1e-5), relative_error(clean, perturbed))


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_centered_relative_error_equals_the_oracle(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, perturbed = (a.astype(np.float64).reshape(len(a), -1) for a in pair)
    spread = np.linalg.norm(clean - clean.mean(0), axis=1)
    assume(((spread > 1e-3) | (np.abs(clean - clean[0]).max() == 0)).all())
    expected = np.where(spread > 1e-3, np.linalg.norm(clean - perturbed, axis=1) / np.maximum(spread, 1e-3), 1.0)
    got = centered_relative_error(*(torch.from_numpy(a.astype(np.float64)) for a in pair))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_cosine_distance_lies_between_0_and_2(pair: tuple[np.ndarray, np.ndarray]) -> None:
    got = cosine_distance(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))
    assert ((got >= 0) & (got <= 2)).all()


def test_cosine_distance_of_equal_rows_is_0_and_never_negative() -> None:
    rows = torch.randn(500, 9, generator=torch.Generator().manual_seed(0))
    distance = cosine_distance(rows, rows * 3)
    assert float(distance.min()) >= 0
    assert float(distance.max()) < 1e-6


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9, 1e-11])
def test_cosine_distance_ignores_the_length_of_small_vectors(scale: float) -> None:
    clean, perturbed = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    expected = torch.tensor([1 - math.sqrt(0.5)])
    torch.testing.assert_close(cosine_distance(clean * scale, perturbed * scale), expected)


def test_cosine_distance_of_dead_rows() -> None:
    clean, perturbed = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert cosine_distance(clean, perturbed).tolist() == [0.0, 1.0]


def test_as_rows_flattens_all_but_the_samples() -> None:
    rows, _ = as_rows(torch.zeros(2, 3, 4, dtype=torch.float16), torch.zeros(2, 3, 4, dtype=torch.float16))
    assert rows.shape == (2, 12)
    assert rows.dtype == torch.float32


two, three = torch.zeros(2, 3), torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "expected", "got"),
    [
        (lambda: relative_error(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: centered_relative_error(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: cosine_distance(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: relative_error(torch.tensor(1.0), torch.tensor(1.0)), r"\[N, \.\.\.\]", "scalar"),
    ],
)
def test_value_errors_name_expected_and_got(call: Callable[[], Any], expected: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{expected}.*got .*{got}"):
        call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "measure",
    [
        relative_error,
        centered_relative_error,
        centered_relative_error_over_batch,
        relative_squared_error,
        cosine_distance,
    ],
)
def test_what_is_not_finite_is_not_where_the_clean_layer_is_dead_either(
    measure: Callable[[Tensor, Tensor], Tensor], bad: float
) -> None:
    for clean in (torch.zeros(2, 3), torch.ones(2, 3)):
        perturbed = clean.clone()
        perturbed[1, 0] = bad
        assert not measure(clean, perturbed).isfinite().all()
