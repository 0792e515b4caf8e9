from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsa_lightning import functional
from lsa_lightning.measures import (
    CenteredRelativeError,
    ComparisonMeasure,
    CosineDistance,
    KLDivergence,
    RelativeError,
    RelativeSquaredError,
)
from lsa_lightning.utils.paths import CONF_DIR

MEASURES = [RelativeError(), CenteredRelativeError(), CosineDistance(), RelativeSquaredError(), KLDivergence()]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    return clean, clean + 0.3 * torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("measure", "function"),
    [
        (RelativeError(), functional.relative_error),
        (CenteredRelativeError(), functional.centered_relative_error),
        (CosineDistance(), functional.cosine_distance),
        (RelativeSquaredError(), functional.relative_squared_error),
    ],
)
def test_measures_are_their_functions(
    measure: ComparisonMeasure, function: type[object], pair: tuple[Tensor, Tensor]
) -> None:
    torch.testing.assert_close(measure(*pair), function(*pair))


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_measures_give_one_value_per_sample_and_a_scalar_over_the_batch(
    measure: ComparisonMeasure, pair: tuple[Tensor, Tensor]
) -> None:
    assert measure(*pair).shape == (4,)
    assert measure.over_batch(*pair).shape == ()


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("over_batch", [False, True])
def test_measures_are_differentiable_twice_in_both_arguments(
    measure: ComparisonMeasure, over_batch: bool, pair: tuple[Tensor, Tensor]
) -> None:
    inputs = tuple(t.clone().requires_grad_() for t in pair)
    function = measure.over_batch if over_batch else measure
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    constant = torch.ones(() if over_batch else 4, dtype=torch.float64)  # as in a loss, not what gradgradcheck gives
    clean, perturbed = inputs
    first = torch.autograd.grad(function(clean, perturbed), clean, constant, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), clean)[0]
    step = 1e-6 * torch.ones_like(clean)
    there, back = (
        torch.autograd.grad(function(moved, perturbed), moved, constant)[0] for moved in (clean + step, clean - step)
    )
    torch.testing.assert_close(second, (there - back) / 2e-6, rtol=1e-4, atol=1e-6)


def test_relative_error_over_batch_is_one_frobenius_norm(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = pair
    torch.testing.assert_close(RelativeError().over_batch(clean, perturbed), (clean - perturbed).norm() / clean.norm())


def test_centered_relative_error_over_batch_takes_off_the_mean_over_samples(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = pair
    expected = (clean - perturbed).norm() / (clean - clean.mean(0)).norm()
    torch.testing.assert_close(CenteredRelativeError().over_batch(clean, perturbed), expected)


def test_relative_squared_error_is_its_formula_over_the_batch_and_by_sample(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = (rows.flatten(1) for rows in pair)
    distance = (clean - perturbed).square().sum(1)
    spread = (clean - clean.mean(0)).square().sum(1).mean()
    torch.testing.assert_close(RelativeSquaredError()(*pair), distance / spread)
    torch.testing.assert_close(RelativeSquaredError().over_batch(*pair), distance.mean() / spread)


def test_a_shift_of_all_samples_does_not_lower_the_squared_error(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = pair
    measure = RelativeSquaredError()
    torch.testing.assert_close(measure(clean + 100, perturbed + 100), measure(clean, perturbed))
    assert RelativeError()(clean + 100, perturbed + 100).max() < 0.1 * RelativeError()(clean, perturbed).min()


def test_nothing_is_detached_from_the_squared_error(pair: tuple[Tensor, Tensor]) -> None:
    clean, perturbed = (rows.clone().requires_grad_() for rows in pair)
    (slope,) = torch.autograd.grad(RelativeSquaredError()(clean, perturbed).sum(), clean)
    rows = clean.detach().requires_grad_()
    fixed = (rows - perturbed.detach()).flatten(1).square().sum(1) / (clean - clean.mean(0)).square().sum().detach() * 4
    assert (slope - torch.autograd.grad(fixed.sum(), rows)[0]).abs().max() > 1e-2


def test_a_layer_far_outside_of_float32s_squares_has_its_squared_error() -> None:
    clean, perturbed = torch.tensor([[1e25], [3e25]]), torch.tensor([[1e25], [3.5e25]])
    torch.testing.assert_close(RelativeSquaredError()(clean, perturbed), torch.tensor([0.0, 0.25]))


def test_a_constant_layer_scores_0_by_relative_error_and_1_by_the_centered_ones() -> None:
    constant = torch.full((4, 3), 5.0)
    assert RelativeError()(constant, constant).tolist() == [0.0] * 4
    assert CenteredRelativeError()(constant, constant).tolist() == [1.0] * 4
    assert float(CenteredRelativeError().over_batch(constant, constant)) == 1.0
    assert RelativeSquaredError()(constant, constant).tolist() == [1.0] * 4


def test_centered_relative_error_of_a_single_sample_is_1() -> None:
    assert CenteredRelativeError()(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [1.0]


def test_cosine_distance_is_blind_to_length(pair: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(CosineDistance()(pair[0], 7.0 * pair[1]), CosineDistance()(*pair))


def test_a_measure_of_ones_own_needs_only_a_call(pair: tuple[Tensor, Tensor]) -> None:
    class MaxDistance(ComparisonMeasure):
        def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
            return (clean - perturbed).flatten(1).abs().amax(1)

    assert (repr(MaxDistance()), MaxDistance().name) == ("MaxDistance()", "max_distance")
    torch.testing.assert_close(MaxDistance().over_batch(*pair), (pair[0] - pair[1]).abs().max())


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_is_named_like_its_function_and_its_file(measure: ComparisonMeasure) -> None:
    assert hasattr(functional, measure.name)
    assert (CONF_DIR / "measure" / f"{measure.name}.yaml").is_file()


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_measures_refuse_different_shapes(measure: ComparisonMeasure) -> None:
    with pytest.raises(ValueError, match=r"expected .* equal shape, got \(2, 3\) and \(2, 4\)"):
        measure(torch.zeros(2, 3), torch.zeros(2, 4))


def test_kl_divergence_is_that_of_the_predictions() -> None:
    clean, perturbed = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.5]])
    p, q = clean.softmax(1), perturbed.softmax(1)
    torch.testing.assert_close(KLDivergence()(clean, perturbed), (p * (p / q).log()).sum(1))
    assert KLDivergence().name == "kl_divergence"


def test_kl_divergence_of_one_logit_is_that_of_two_classes() -> None:
    clean, perturbed = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    two = [torch.stack([torch.zeros(2), logits], dim=1) for logits in (clean, perturbed)]
    torch.testing.assert_close(KLDivergence()(clean, perturbed), KLDivergence()(*two))
