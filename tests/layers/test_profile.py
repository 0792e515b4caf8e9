from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.helpers.no_float64 import NoFloat64
from torch import Tensor

from lsa_lightning.layers.profile import LayerProfile, Profile

LAYERS = ["fc1", "fc2", "fc3"]


def profile_of(errors: Tensor, *cuts: int) -> Profile:
    metric = LayerProfile([f"layer{i}" for i in range(errors.shape[1])])
    for part in errors.tensor_split(sorted(cuts)):
        metric.update(part)
    return metric.compute()


@st.composite
def error_tables(draw: st.DrawFn) -> Tensor:
    shape = (draw(st.integers(1, 30)), draw(st.integers(1, 4)))
    return torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 10))))


@settings(max_examples=200, deadline=None)
@given(error_tables())
def test_profile_equals_mean_and_population_deviation(errors: Tensor) -> None:
    profile, table = profile_of(errors), errors.numpy()
    np.testing.assert_allclose(profile.mean.numpy(), table.mean(0), atol=1e-6)
    np.testing.assert_allclose(profile.std.numpy(), table.std(0), atol=1e-6)
    assert float(profile.mu) == pytest.approx(table.mean(), abs=1e-6)
    assert float(profile.sigma) == pytest.approx(table.std(), abs=1e-6)
    assert profile.samples == len(table)


@settings(max_examples=200, deadline=None)
@given(error_tables(), st.lists(st.integers(0, 30), max_size=5))
def test_profile_does_not_depend_on_the_batches(errors: Tensor, cuts: list[int]) -> None:
    whole, parts = profile_of(errors), profile_of(errors, *cuts)
    for a, b in zip(whole[:4], parts[:4], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert whole.samples == parts.samples


@settings(max_examples=50, deadline=None)
@given(error_tables(), st.integers(0, 30))
def test_two_processes_reduce_to_the_profile_of_one(errors: Tensor, cut: int) -> None:
    names = [f"layer{i}" for i in range(errors.shape[1])]
    second = LayerProfile(names)
    second.update(errors[cut:])
    theirs = iter([second.total, second.squares, second.count])

    def gather(state: Tensor, group: object) -> list[Tensor]:
        return [state, next(theirs)]

    first = LayerProfile(names, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    first.update(errors[:cut])

    for a, b in zip(first.compute()[:4], profile_of(errors)[:4], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert next(theirs, None) is None


def test_sigma_is_taken_over_samples_and_layers_together() -> None:
    profile = profile_of(torch.tensor([[0.0, 4.0], [2.0, 6.0]]))
    assert profile.mean.tolist() == [1.0, 5.0]
    assert profile.std.tolist() == [1.0, 1.0]
    assert float(profile.sigma) == pytest.approx(math.sqrt(5.0))


def test_a_single_layer_keeps_its_dimension() -> None:
    profile = profile_of(torch.tensor([[1.0], [3.0]]))
    assert profile.mean.tolist() == [2.0]
    assert profile.std.tolist() == [1.0]
    assert profile.mu.shape == profile.sigma.shape == ()
    metric = pickle.loads(pickle.dumps(LayerProfile(["fc1"])))
    metric.update(torch.ones(2, 1))
    assert metric.compute().mean.shape == (1,)


def test_equal_errors_have_no_spread() -> None:
    profile = profile_of(torch.full((1000, 3), 0.1, dtype=torch.float64))
    assert profile.std.isfinite().all()
    assert float(profile.sigma) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_kept_in_float64(dtype: torch.dtype) -> None:
    metric = LayerProfile(LAYERS)
    for _ in range(3000):
        metric.update(torch.ones(1, 3, dtype=dtype))
    profile = metric.compute()
    assert profile.mean.dtype == torch.float64
    assert profile.mean.tolist() == [1.0] * 3
    assert profile.samples == 3000


def test_update_does_not_keep_the_graph() -> None:
    metric = LayerProfile(LAYERS)
    metric.update(torch.rand(2, 3, requires_grad=True))
    assert not metric.total.requires_grad


def test_reset_pickle_and_copy() -> None:
    metric = LayerProfile(LAYERS)
    metric.update(torch.rand(5, 3))
    expected = metric.compute().mean
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert other.layers == LAYERS
        torch.testing.assert_close(other.compute().mean, expected)
    metric.reset()
    assert int(metric.count) == 0


def test_a_metric_continues_after_compute() -> None:
    errors = torch.rand(6, 3)
    metric = LayerProfile(LAYERS)
    metric.update(errors[:2])
    metric.compute()
    metric.update(errors[2:])
    torch.testing.assert_close(metric.compute().mean, errors.double().mean(0))


@pytest.mark.parametrize("layers", [[], (), "fc1"])
def test_layers_must_be_a_list_of_names(layers: list[str]) -> None:
    with pytest.raises(ValueError, match=r"expected layers to be a list of at least one value, got "):
        LayerProfile(layers)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 1)])
def test_update_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected errors of shape \[N, 3\], got \("):
        LayerProfile(LAYERS).update(torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_update_names_the_layers_that_are_not_finite(value: float) -> None:
    errors = torch.zeros(4, 3)
    errors[2, 1] = value
    with pytest.raises(ValueError, match=r"expected finite representations, got NaN or infinity .* \['fc2'\]"):
        LayerProfile(LAYERS).update(errors)


@pytest.mark.filterwarnings("ignore:.*compute.*before.*update.*")
def test_compute_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="expected at least one sample, got none"):
        LayerProfile(LAYERS).compute()


def test_without_float64_the_sums_are_kept_in_float32() -> None:
    errors = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    with NoFloat64():
        metric = LayerProfile(LAYERS)
        for part in errors.split(10):
            metric.update(part)
        profile = metric.compute()
    assert profile.mean.dtype == torch.float32
    for mine, theirs in zip(profile[:4], profile_of(errors)[:4], strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=0)
