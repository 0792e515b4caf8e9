from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsa_lightning.functional import (
    check_classes,
    classification_loss,
    is_binary,
    kl_divergence,
    log_probabilities,
    predicted_labels,
)

LOGITS = st.floats(-30, 30, width=32)


def test_another_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected reduction to be one of \['mean', 'sum', 'none'\], got 'None'"):
        classification_loss(torch.zeros(2, 3), torch.tensor([0, 1]), "None")


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


LOSS_FN = r".*loss_fn= of FGSM, FFGSM, PGD and APGD; accuracy needs classes"


@pytest.mark.parametrize(
    ("logits", "labels", "got"),
    [
        ((3, 1), [0.05, 0.95, 0.05], "fractions such as 0.05, as regression targets or smoothed labels are" + LOSS_FN),
        ((3,), [[0.5], [0.0], [1.0]], "fractions such as 0.5" + LOSS_FN),
        ((3, 4), [0.0, 1.0, 2.25], "fractions such as 2.25" + LOSS_FN),
        ((3, 1), [-1.3, 4.0, 0.5], "fractions such as -1.3" + LOSS_FN),
        ((3, 2), [[0.9, 0.1]] * 3, r"\(3, 2\), which are soft or one-hot labels" + LOSS_FN),
        ((3, 2), [[1, 0]] * 3, r"\(3, 2\), which are soft or one-hot labels" + LOSS_FN),
        ((3, 4), [[1, 0, 1, 1]] * 3, r"\(3, 4\), which are several targets, as multi-label ones" + LOSS_FN),
        ((3, 4), [[[0, 1], [1, 0]]] * 3, r"\(3, 2, 2\), as segmentation masks have" + LOSS_FN),
        ((3, 4, 2, 2), [0, 1, 2], r"\(3, 4, 2, 2\), as for segmentation" + LOSS_FN),
        ((3, 4), [[0], [1], [2]], r"\(3, 1\), which is one too many dimensions"),
    ],
)
def test_labels_that_are_no_classes_are_named(logits: tuple[int, ...], labels: list[object], got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{got}"):
        check_classes(torch.zeros(logits), torch.tensor(labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32])
def test_classes_of_any_dtype_are_classes(dtype: torch.dtype) -> None:
    check_classes(torch.zeros(3, 3), torch.tensor([0, 2, 1]).to(dtype))
    check_classes(torch.zeros(2, 1), torch.tensor([[0], [1]]).to(dtype))
    check_classes(torch.zeros(2), torch.tensor([False, True]))


def test_a_class_that_neither_side_thinks_possible_counts_nothing() -> None:
    p, q = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.0]], requires_grad=True)
    expected = kl_divergence(p, q)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), q)
    masked = [torch.cat([each, torch.full((1, 1), -torch.inf)], dim=1) for each in (p, q)]
    got = kl_divergence(*masked)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), q)[0], expected_gradient)
    assert kl_divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, -torch.inf]])).isinf()
