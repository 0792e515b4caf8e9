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

from lsa_lightning.functional import layerwise_penalty, relative_error, select_mvl
from lsa_lightning.layers.profile import LayerProfile


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mu_sigma_and_mvl_equal_the_oracle(data: st.DataObject) -> None:
    samples, layers = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    shape = (layers, 2, samples, data.draw(st.integers(1, 5)))
    phi = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(0.5, 4, width=32)))
    eta = data.draw(st.floats(-2, 2))
    errors = np.stack([oracle_relative_error(*phi[layer]) for layer in range(layers)], axis=1)
    margins = errors.mean(0) - errors.mean() - eta * errors.std()
    assume(np.abs(margins).min() > 1e-6)
    names = [f"layer{i}" for i in range(layers)]
    profile = LayerProfile(names)
    profile.update(torch.stack([relative_error(*torch.from_numpy(phi[layer])) for layer in range(layers)], dim=1))

    result = profile.compute()

    np.testing.assert_allclose(result.mean.numpy(), errors.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.std.numpy(), errors.std(0), atol=1e-6)
    np.testing.assert_allclose(float(result.mu), errors.mean(), atol=1e-6)
    np.testing.assert_allclose(float(result.sigma), errors.std(), atol=1e-6)
    mvl = select_mvl(names, result.mean, result.mu, result.sigma, eta)
    assert set(mvl) == {name for name, margin in zip(names, margins, strict=True) if margin > 0}


def test_select_mvl_sorts_by_falling_mean_and_keeps_the_order_of_equals() -> None:
    mvl = select_mvl(["a", "b", "c", "d"], [0.9, 0.1, 0.95, 0.9], mu=0.5, sigma=0.3)
    assert mvl == ["c", "a", "d"]


def test_select_mvl_is_strict_and_empty_for_a_large_eta() -> None:
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=1.0) == []
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=0.99) == ["b"]
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=-2.0) == ["b", "a"]


def test_layers_that_are_all_alike_are_not_chosen_by_rounding() -> None:
    value = 0.1 + 0.2
    assert select_mvl(["a", "b", "c"], [value] * 3, mu=0.3, sigma=0.1) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("layers", "value"), [(7, 0.7), (3, 0.9), (6, 0.3), (10, 0.3), (11, 0.7)])
def test_nor_are_they_in_coarser_numbers(layers: int, value: float, dtype: torch.dtype) -> None:
    names, mean = [str(number) for number in range(layers)], torch.full((layers,), value, dtype=dtype)
    assert select_mvl(names, mean, mean.mean(), 0.0) == []
    mean[0] += 0.5
    assert select_mvl(names, mean, mean.mean(), 0.0) == ["0"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_a_sigma_above_mu_is_chosen_in_half_precision_too(dtype: torch.dtype) -> None:
    assert select_mvl(["a", "b"], torch.tensor([0.55, 0.45], dtype=dtype), 0.5, 0.05, eta=0.5) == ["a"]


def test_select_mvl_top_k_does_not_use_eta() -> None:
    mean = torch.tensor([0.2, 0.9, 0.4])
    assert select_mvl(["a", "b", "c"], mean, mu=0.5, sigma=0.2, eta=100.0, top_k=2) == ["b", "c"]


def test_select_mvl_reads_tensors_and_numbers_alike() -> None:
    tensors = select_mvl(["a", "b"], torch.tensor([1.0, 2.0]), torch.tensor(1.5), torch.tensor(0.5), 0.5)
    assert tensors == select_mvl(["a", "b"], [1.0, 2.0], 1.5, 0.5, 0.5) == ["b"]


def test_layerwise_penalty_is_the_weighted_sum_of_mean_errors() -> None:
    clean = {"a": torch.tensor([[3.0, 4.0], [1.0, 0.0]]), "b": torch.tensor([[2.0], [4.0]]), "unused": torch.ones(2)}
    perturbed = {"a": torch.tensor([[3.0, 3.0], [1.0, 0.4]]), "b": torch.tensor([[1.0], [1.0]])}
    penalty = layerwise_penalty(clean, perturbed, {"a": 0.5, "b": 2.0})
    torch.testing.assert_close(penalty, torch.tensor(0.5 * 0.3 + 2.0 * 0.625))


def test_layerwise_penalty_sends_gradients_into_both_sides() -> None:
    clean = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    perturbed = torch.tensor([[3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    layerwise_penalty({"a": clean}, {"a": perturbed}, {"a": 1.0}).backward()
    # d(|c - p| / |c|): into p it is (p - c) / (|c - p| |c|), into c the negative of that minus |c - p| c / |c|^3.
    assert clean.grad is not None
    assert perturbed.grad is not None
    torch.testing.assert_close(perturbed.grad, torch.tensor([[0.0, -0.2]], dtype=torch.float64))
    torch.testing.assert_close(clean.grad, torch.tensor([[-0.024, 0.2 - 0.032]], dtype=torch.float64))


def test_layerwise_penalty_without_a_representation_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="missing"):
        layerwise_penalty({}, {}, {"missing": 1.0})


@pytest.mark.parametrize(
    ("call", "expected", "got"),
    [
        (lambda: select_mvl(["a"], [1.0, 2.0], 0.0, 1.0), "one mean per layer", "2 means for 1 layers"),
        (lambda: select_mvl(["a"], [1.0], 0.0, 1.0, eta=math.nan), "eta to be a finite number", "nan"),
        (lambda: select_mvl(["a"], [1.0], 0.0, 1.0, eta=-math.inf), "eta to be a finite number", "-inf"),
        (lambda: select_mvl(["a", "b"], [1.0, 2.0], 0.0, 1.0, top_k=0), r"top_k to be an integer in \[1, 2\]", "0"),
        (lambda: select_mvl(["a", "b"], [1.0, 2.0], 0.0, 1.0, top_k=3), r"top_k to be an integer in \[1, 2\]", "3"),
        (lambda: layerwise_penalty({}, {}, {}), "gamma to be a mapping of at least one name", "{}"),
    ],
)
def test_value_errors_name_expected_and_got(call: Callable[[], Any], expected: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{expected}.*got .*{got}"):
        call()
