from __future__ import annotations

import pytest
import torch

from lsa_lightning.attacks.losses import class_logits, cross_entropy, dlr, margin, targeted_dlr


def random_logits(classes: int, n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def runner_up(row: list[float], label: int) -> float:
    return max(value for index, value in enumerate(row) if index != label)


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_is_the_formula_written_out(classes: int) -> None:
    logits, y = random_logits(classes)
    for row, label, value in zip(logits.tolist(), y.tolist(), dlr(logits, y).tolist(), strict=True):
        ranked = sorted(row, reverse=True)
        assert value == pytest.approx(-(row[label] - runner_up(row, label)) / (ranked[0] - ranked[2]))


@pytest.mark.parametrize("classes", [4, 10])
def test_targeted_dlr_is_the_formula_written_out(classes: int) -> None:
    logits, y = random_logits(classes)
    targets = (y + 1) % classes
    values = targeted_dlr(logits, y, targets).tolist()
    for row, label, target, value in zip(logits.tolist(), y.tolist(), targets.tolist(), values, strict=True):
        ranked = sorted(row, reverse=True)
        assert value == pytest.approx(-(row[label] - row[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2))


def test_dlr_is_positive_exactly_where_misclassified_and_ignores_shift_and_scale() -> None:
    logits, y = random_logits(5)
    assert torch.equal(dlr(logits, y) > 0, logits.argmax(1) != y)
    assert torch.equal(margin(logits, y) < 0, logits.argmax(1) != y)
    torch.testing.assert_close(dlr(7 * logits + 3, y), dlr(logits, y))


def test_one_logit_is_the_two_classes_of_equal_probability() -> None:
    z, y = torch.tensor([[-2.0], [0.5]]), torch.tensor([0, 0])
    assert margin(z, y).tolist() == [2.0, -0.5]
    assert torch.equal(margin(z.flatten(), y), margin(z, y))
    torch.testing.assert_close(class_logits(z).softmax(1)[:, 1], torch.sigmoid(z.flatten()))
    torch.testing.assert_close(
        cross_entropy(z, y), torch.nn.functional.cross_entropy(class_logits(z), y, reduction="none")
    )


def test_equal_logits_have_finite_values_and_gradients() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    y = torch.tensor([0, 1])
    (dlr(logits, y) + targeted_dlr(logits, y, y + 1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
