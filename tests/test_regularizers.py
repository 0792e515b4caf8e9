from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lsa_lightning.functional import relative_error
from lsa_lightning.measures import CenteredRelativeError, CosineDistance, RelativeError, RelativeSquaredError
from lsa_lightning.regularizers import LayerwiseRegularizer, LinearRamp, TrainingRamp


@pytest.fixture
def clean() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(4, 3, generator=generator, requires_grad=True) for name in ("a", "b")}


@pytest.fixture
def perturbed() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(4, 3, generator=generator, requires_grad=True) for name in ("a", "b")}


def test_penalty_is_gamma_times_the_sum_over_the_layers(clean: dict[str, Tensor], perturbed: dict[str, Tensor]) -> None:
    expected = 0.3 * sum(relative_error(clean[name], perturbed[name]).mean() for name in ("a", "b"))
    torch.testing.assert_close(LayerwiseRegularizer(gamma=0.3)(clean, perturbed), expected)


@pytest.mark.parametrize(
    "measure", [RelativeError(), CenteredRelativeError(), CosineDistance(), RelativeSquaredError()], ids=repr
)
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradient_flows_into_both_sides(
    clean: dict[str, Tensor], perturbed: dict[str, Tensor], measure: Any, per_sample: bool
) -> None:
    LayerwiseRegularizer(1.0, measure=measure, per_sample=per_sample)(clean, perturbed).backward()
    for phi in (*clean.values(), *perturbed.values()):
        assert phi.grad is not None
        assert float(phi.grad.abs().sum()) > 0


def test_without_per_sample_the_batch_is_one_tensor(clean: dict[str, Tensor], perturbed: dict[str, Tensor]) -> None:
    expected = sum(0.1 * (clean[name] - perturbed[name]).norm() / clean[name].norm() for name in ("a", "b"))
    torch.testing.assert_close(LayerwiseRegularizer(gamma=0.1, per_sample=False)(clean, perturbed), expected)


def test_per_sample_and_whole_batch_differ_where_the_norms_do() -> None:
    clean, perturbed = {"a": torch.tensor([[1.0], [9.0]])}, {"a": torch.tensor([[2.0], [9.0]])}
    assert float(LayerwiseRegularizer(gamma=1.0)(clean, perturbed)) == pytest.approx(0.5)
    whole = LayerwiseRegularizer(gamma=1.0, per_sample=False)(clean, perturbed)
    assert float(whole) == pytest.approx(1 / math.sqrt(82))


def test_a_gamma_mapping_weighs_and_chooses_layers(clean: dict[str, Tensor], perturbed: dict[str, Tensor]) -> None:
    regularizer = LayerwiseRegularizer(gamma={"b": 0.7, "elsewhere": 5.0})
    assert regularizer.weights(clean) == {"b": 0.7}
    torch.testing.assert_close(regularizer(clean, perturbed), 0.7 * relative_error(clean["b"], perturbed["b"]).mean())


def test_a_mapping_that_names_no_layer_of_the_batch_is_an_error(
    clean: dict[str, Tensor], perturbed: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"expected gamma to be a mapping of at least one name, got \{\}"):
        LayerwiseRegularizer(gamma={"elsewhere": 1.0})(clean, perturbed)


def test_gamma_0_is_no_penalty(clean: dict[str, Tensor], perturbed: dict[str, Tensor]) -> None:
    assert LayerwiseRegularizer(gamma=0.0)(clean, perturbed).item() == 0.0


def test_schedule_scales_gamma_by_epoch(clean: dict[str, Tensor], perturbed: dict[str, Tensor]) -> None:
    regularizer = LayerwiseRegularizer(gamma=0.8, schedule=LinearRamp(4))
    full = LayerwiseRegularizer(gamma=0.8)(clean, perturbed)
    for epoch, factor in enumerate([0.25, 0.5, 0.75, 1.0, 1.0]):
        torch.testing.assert_close(regularizer(clean, perturbed, epoch=epoch), factor * full)
    mapped = LayerwiseRegularizer(gamma={"a": 2.0}, schedule=float)
    assert mapped.weights(["a", "b"], epoch=3) == {"a": 6.0}


def test_weights_keep_the_order_of_the_layers() -> None:
    assert list(LayerwiseRegularizer(gamma=1.0).weights(["z", "a", "m"])) == ["z", "a", "m"]


def test_default_measure_is_the_papers_and_repr_shows_the_choice() -> None:
    regularizer = LayerwiseRegularizer()
    assert isinstance(regularizer.measure, RelativeError)
    assert repr(regularizer) == "LayerwiseRegularizer(gamma=0.1, measure=RelativeError(), per_sample=True)"


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf, {}, {"a": 0.1, "b": -1.0}, {"a": math.nan}, "0.1", None])
def test_gamma_must_be_finite_and_not_negative(gamma: Any) -> None:
    with pytest.raises(ValueError, match=r"LayerwiseRegularizer: expected gamma.* to be .*, got "):
        LayerwiseRegularizer(gamma=gamma)


def test_a_schedule_of_the_share_of_training_ignores_the_epoch(
    clean: dict[str, Tensor], perturbed: dict[str, Tensor]
) -> None:
    regularizer = LayerwiseRegularizer(gamma=0.8, schedule=TrainingRamp(0.1, 0.5))
    full = LayerwiseRegularizer(gamma=0.8)(clean, perturbed)
    for share, factor in ((0.0, 0.0), (0.1, 0.0), (0.3, 0.5), (0.5, 1.0), (0.9, 1.0)):
        torch.testing.assert_close(regularizer(clean, perturbed, epoch=7, share=share), factor * full)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 0.5), (1.0, 1.0), (0.5, 0.5), (0.1, 1.2)])
def test_shares_of_training_are_ordered_and_within_it(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"TrainingRamp: expected (start|end) to be a finite number"):
        TrainingRamp(start, end)


@pytest.mark.parametrize("epochs", [0, -3])
def test_ramp_needs_an_epoch(epochs: int) -> None:
    with pytest.raises(ValueError, match=f"LinearRamp: expected warmup_epochs to be an integer >= 1, got {epochs}"):
        LinearRamp(epochs)
