from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from torch import Tensor

from lsa_lightning.functional import (
    as_rows,
    centered_relative_error,
    classification_loss,
    cosine_distance,
    is_binary,
    kl_divergence,
    layerwise_penalty,
    log_probabilities,
    predicted_labels,
    relative_error,
    robustness_generalization_score,
    select_mvl,
    wilson_interval,
)
from lsa_lightning.layers.profile import LayerProfile

# Zero or well above the floor below which a norm counts as zero.
VALUES = st.floats(-100, 100, width=32).map(lambda v: v if abs(v) > 1e-4 else 0.0)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Clean and perturbed representations of one shape ``[N, ...]``."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    return draw(hnp.arrays(np.float32, shape, elements=VALUES)), draw(hnp.arrays(np.float32, shape, elements=VALUES))


def oracle_relative_error(clean: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    c, p = (a.astype(np.float64).reshape(len(a), -1) for a in (clean, perturbed))
    distance, norm = np.linalg.norm(c - p, axis=1), np.linalg.norm(c, axis=1)
    return np.where(norm > 0, distance / np.where(norm > 0, norm, 1), (distance > 0).astype(np.float64))


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_relative_error_equals_the_oracle(pair: tuple[np.ndarray, np.ndarray]) -> None:
    got = relative_error(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))
    np.testing.assert_allclose(got.numpy(), oracle_relative_error(*pair), rtol=1e-6, atol=1e-6)


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


def test_select_mvl_sorts_by_falling_mean_and_keeps_the_order_of_equals() -> None:
    mvl = select_mvl(["a", "b", "c", "d"], [0.9, 0.1, 0.95, 0.9], mu=0.5, sigma=0.3)
    assert mvl == ["c", "a", "d"]


def test_select_mvl_is_strict_and_empty_for_a_large_eta() -> None:
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=1.0) == []
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=0.99) == ["b"]
    assert select_mvl(["a", "b"], [1.0, 2.0], mu=1.5, sigma=0.5, eta=-2.0) == ["b", "a"]


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
    ("row", "score"),
    [
        ([97.07, 93.63, 82.5, 76.83, 63.79, 52.35], 466.17),
        ([98.82, 82.1, 47.2, 17.87, 6.96, 4.25], 257.2),
        ([83.55, 75.32, 73.35, 52.36, 46.01], 330.59),
    ],
)
def test_robustness_generalization_score_of_the_papers_rows(row: list[float], score: float) -> None:
    assert robustness_generalization_score(row) == pytest.approx(score)
    assert robustness_generalization_score(iter(row)) == pytest.approx(score)


LOGITS = st.floats(-30, 30, width=32)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["mean", "sum", "none"]))
def test_classification_loss_equals_cross_entropy(data: st.DataObject, reduction: str) -> None:
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(2, 6)))
    logits = torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=LOGITS)))
    labels = torch.from_numpy(data.draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1))))
    expected = F.cross_entropy(logits.double(), labels, reduction=reduction)
    got = classification_loss(logits, labels, reduction)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, (5,), elements=LOGITS), st.booleans(), st.sampled_from(["mean", "sum", "none"]))
def test_classification_loss_equals_bce_for_one_logit(logits: np.ndarray, column: bool, reduction: str) -> None:
    z = torch.from_numpy(logits)
    labels = torch.tensor([0, 1, 1, 0, 1])
    expected = F.binary_cross_entropy_with_logits(z.double(), labels.double(), reduction=reduction)
    got = classification_loss(z.unsqueeze(1) if column else z, labels, reduction)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_classification_loss_takes_binary_labels_of_any_dtype_and_shape(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    logits, labels = torch.tensor([[0.3], [-2.0], [1.5]]), torch.tensor([1, 0, 0])
    expected = F.binary_cross_entropy_with_logits(logits.flatten(), labels.float())
    torch.testing.assert_close(classification_loss(logits, labels.to(dtype).view(shape)), expected)


@pytest.mark.parametrize(
    ("logits", "label"),
    [([60.0], 1), ([-60.0], 0), ([60.0, 0.0], 0), ([0.0, 60.0, 1.0], 1), ([0.0, -50.0, 40.0, 3.0], 2)],
)
def test_classification_loss_keeps_a_gradient_on_confident_logits(logits: list[float], label: int) -> None:
    z = torch.tensor([logits], requires_grad=True)
    gradient = torch.autograd.grad(classification_loss(z, torch.tensor([label])), z)[0]
    assert (gradient != 0).any()
    wide = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    loss = classification_loss(wide, torch.tensor([label]))
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(loss, wide)[0], rtol=1e-4, atol=0.0)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(-20, 20)))
def test_classification_loss_has_the_gradient_of_cross_entropy(values: np.ndarray) -> None:
    labels = torch.tensor([0, 3, 1])
    ours, reference = (torch.from_numpy(values.copy()).requires_grad_() for _ in range(2))
    classification_loss(ours, labels).backward()
    F.cross_entropy(reference, labels).backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_classification_loss_of_low_precision_logits_is_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 2.0]], dtype=dtype)
    assert classification_loss(logits, torch.tensor([0])).dtype == torch.float32


def test_is_binary_and_predicted_labels() -> None:
    assert [is_binary(torch.zeros(s)) for s in [(3,), (3, 1), (3, 2)]] == [True, True, False]
    assert predicted_labels(torch.tensor([-1.0, 0.5])).tolist() == [0, 1]
    assert predicted_labels(torch.tensor([[-1.0], [0.5]])).tolist() == [0, 1]
    assert predicted_labels(torch.tensor([[-1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2), (4, 6)])
def test_log_probabilities_sum_to_one(shape: tuple[int, ...]) -> None:
    probabilities = log_probabilities(torch.randn(shape) * 5).exp()
    assert probabilities.shape == (4, max(2, shape[-1] if len(shape) > 1 else 1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-15, 15)))
def test_kl_divergence_equals_the_formula(logits: np.ndarray) -> None:
    p, q = torch.softmax(torch.from_numpy(logits), dim=-1)
    got = kl_divergence(*torch.from_numpy(logits))
    torch.testing.assert_close(got, (p * (p.log() - q.log())).sum(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_kl_divergence_of_one_logit_is_the_bernoulli_one(shape: tuple[int, ...]) -> None:
    a, b = torch.randn(2, 5, dtype=torch.float64)
    p, q = torch.sigmoid(a), torch.sigmoid(b)
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(kl_divergence(a.view(shape), b.view(shape)), expected)


@pytest.mark.parametrize(
    ("target", "other"),
    [
        ([[1000.0, 0.0, -1000.0]], [[0.0, 1000.0, 0.0]]),
        ([[1000.0, 0.0]], [[1000.0, 0.0]]),
        ([[300.0]], [[-300.0]]),
        ([[-300.0]], [[-300.0]]),
    ],
)
def test_kl_divergence_survives_underflowing_probabilities(target: list[list[float]], other: list[list[float]]) -> None:
    a, b = torch.tensor(target, requires_grad=True), torch.tensor(other, requires_grad=True)
    value = kl_divergence(a, b)
    gradients = torch.autograd.grad(value.sum(), [a, b])
    assert value.isfinite().all()
    assert float(value.detach().min()) >= 0
    assert all(g.isfinite().all() for g in gradients)


def test_kl_divergence_is_0_only_for_equal_predictions() -> None:
    a = torch.tensor([[1.0, 2.0, 0.5]])
    assert float(kl_divergence(a, a + 3.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(kl_divergence(a, a.flip(1))) > 0.01


two, three = torch.zeros(2, 3), torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "expected", "got"),
    [
        (lambda: relative_error(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: centered_relative_error(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: cosine_distance(two, three), "equal shape", r"\(2, 3\) and \(3, 3\)"),
        (lambda: relative_error(torch.tensor(1.0), torch.tensor(1.0)), r"\[N, \.\.\.\]", "scalar"),
        (lambda: select_mvl(["a"], [1.0, 2.0], 0.0, 1.0), "one mean per layer", "2 means for 1 layers"),
        (lambda: select_mvl(["a"], [1.0], 0.0, 1.0, eta=math.nan), "finite eta", "nan"),
        (lambda: select_mvl(["a"], [1.0], 0.0, 1.0, eta=-math.inf), "finite eta", "-inf"),
        (lambda: select_mvl(["a", "b"], [1.0, 2.0], 0.0, 1.0, top_k=0), r"top_k in 1\.\.2", "0"),
        (lambda: select_mvl(["a", "b"], [1.0, 2.0], 0.0, 1.0, top_k=3), r"top_k in 1\.\.2", "3"),
        (lambda: layerwise_penalty({}, {}, {}), "at least one layer", "none"),
        (lambda: robustness_generalization_score([]), "at least one accuracy", r"\[\]"),
        (lambda: robustness_generalization_score([50.0, 100.5]), r"in \[0, 100\]", "100.5"),
        (lambda: robustness_generalization_score([-1.0]), r"in \[0, 100\]", "-1.0"),
        (lambda: robustness_generalization_score([math.nan]), r"in \[0, 100\]", "nan"),
    ],
)
def test_value_errors_name_expected_and_got(call: Callable[[], Any], expected: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{expected}.*got .*{got}"):
        call()


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_interval_is_that_of_scipy(counts: tuple[int, int], confidence: float) -> None:
    hits, samples = counts
    expected = binomtest(hits, samples).proportion_ci(confidence, method="wilson")
    assert wilson_interval(hits, samples, confidence) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=1e-6
    )


@pytest.mark.parametrize(("hits", "samples", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 1.0)])
def test_wilson_interval_refuses_impossible_counts(hits: int, samples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= hits <= samples"):
        wilson_interval(hits, samples, confidence)
