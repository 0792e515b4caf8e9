from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.helpers.attack_cases import (
    ATTACKS,
    Failing,
    assert_same_state,
    make_batch,
    make_model,
    model_state,
    random_states,
)
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD, GaussianNoise, InputSpace
from lsa_lightning.models.normalize import Normalize

MEAN, STD = [0.485, 0.406], [0.229, 0.225]
IMAGES = "images, many classes"


def normalised(p: Tensor) -> Tensor:
    return (p - torch.tensor(MEAN).to(p).view(1, -1, 1, 1)) / torch.tensor(STD).to(p).view(1, -1, 1, 1)


def pixels(x: Tensor) -> Tensor:
    return x * torch.tensor(STD).to(x).view(1, -1, 1, 1) + torch.tensor(MEAN).to(x).view(1, -1, 1, 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacking_normalised_batches_equals_attacking_pixels_before_a_normalising_model(attack: str) -> None:
    body = make_model(IMAGES, torch.float64)
    p, y = make_batch(IMAGES, dtype=torch.float64)
    expected = ATTACKS[attack](0.1, (0.0, 1.0))(nn.Sequential(Normalize(MEAN, STD), body), p, y)
    got = InputSpace(MEAN, STD).craft(ATTACKS[attack](0.1, (0.0, 1.0)), body, normalised(p), y)
    torch.testing.assert_close(pixels(got), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("eps", [8 / 255, 0.2])
def test_eps_is_in_pixels(eps: float) -> None:
    p, y = make_batch(IMAGES)
    x_adv = InputSpace(MEAN, STD).craft(FGSM(eps), make_model(IMAGES), normalised(p * 0.5 + 0.25), y)
    moved = (pixels(x_adv) - (p * 0.5 + 0.25)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, eps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("attack", ["fgsm", "pgd l2", "gaussian"])
def test_eps_0_gives_exactly_x_back(attack: str, dtype: torch.dtype) -> None:
    p, y = make_batch(IMAGES)
    p[0, 0, 0], p[0, 1, 0] = 0.0, 1.0
    x = normalised(p).to(dtype)
    model = make_model(IMAGES, dtype)
    assert torch.equal(InputSpace(MEAN, STD).craft(ATTACKS[attack](0.0, (0.0, 1.0)), model, x, y), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_black_and_white_pixels_survive_the_rounding_of_normalisation(dtype: torch.dtype) -> None:
    levels = torch.arange(256).repeat(2, 2, 1, 1).permute(3, 0, 1, 2)[:, 0, :, :1].unsqueeze(3) / 255
    x = normalised(levels.expand(256, 2, 5, 5).clone()).to(dtype)
    y = torch.zeros(256, dtype=torch.long)
    x_adv = InputSpace(MEAN, STD).craft(FGSM(8 / 255), make_model(IMAGES, dtype), x, y)
    assert x_adv.dtype == dtype
    slack = 8 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert float(pixels(x_adv).min()) >= -slack
    assert float(pixels(x_adv).max()) <= 1 + slack


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attack", ATTACKS)
def test_works_where_gradients_are_off(attack: str, dtype: torch.dtype, context: Callable[[], Any]) -> None:
    model, (p, y) = make_model(IMAGES, dtype), make_batch(IMAGES, dtype=dtype)
    expected = InputSpace(MEAN, STD).craft(ATTACKS[attack](0.1, (0.0, 1.0)), model, normalised(p), y)
    with context():
        got = InputSpace(MEAN, STD).craft(ATTACKS[attack](0.1, (0.0, 1.0)), model, normalised(p), y)
        assert torch.equal(got, expected)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.5], [0.25]), ([0.5, 0.5], [0.25, 0.25])])
def test_one_value_serves_all_channels(mean: float | Sequence[float], std: float | Sequence[float]) -> None:
    p, y = make_batch(IMAGES)
    model = make_model(IMAGES)
    expected = InputSpace([0.5, 0.5], [0.25, 0.25]).craft(FGSM(0.1), model, (p - 0.5) / 0.25, y)
    assert torch.equal(InputSpace(mean, std).craft(FGSM(0.1), model, (p - 0.5) / 0.25, y), expected)


def test_vectors_have_one_value_per_feature() -> None:
    p, y = make_batch("many classes")
    mean, std = torch.linspace(0.2, 0.7, 6), torch.linspace(0.1, 0.6, 6)
    x = (p - mean) / std
    x_adv = InputSpace(mean.tolist(), std.tolist()).craft(FGSM(0.1), make_model("many classes"), x, y)
    assert float(((x_adv - x) * std).abs().max()) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_in_eval_mode_inside_and_as_before_afterwards(frozen: bool) -> None:
    model, (p, y) = make_model(IMAGES), make_batch(IMAGES)
    model[1].train(not frozen)
    seen: list[bool] = []
    handle = model.register_forward_hook(lambda *_: seen.extend(m.training for m in model.modules()))
    modes = [m.training for m in model.modules()]
    InputSpace(MEAN, STD).craft(PGD(0.1, steps=2), model, normalised(p), y)
    handle.remove()
    assert seen
    assert not any(seen)
    assert [m.training for m in model.modules()] == modes


def test_everything_is_as_before_also_after_an_exception() -> None:
    model, (p, y) = Failing(make_model(IMAGES), fail_at=1), make_batch(IMAGES)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, randomness = model_state(model), random_states()
    with pytest.raises(RuntimeError, match="failing on purpose"):
        InputSpace(MEAN, STD).craft(PGD(0.1, steps=3), model, normalised(p), y)
    assert_same_state(before, model_state(model))
    assert random_states() == randomness


@pytest.mark.parametrize("channels", [3, 5])
def test_the_number_of_channels_must_fit(channels: int) -> None:
    space, (p, y) = InputSpace([0.5] * channels, [0.5] * channels), make_batch(IMAGES)
    with pytest.raises(ValueError, match=rf"expected input_space with 1 or 2 channels .*, got {channels}"):
        space.craft(FGSM(0.1), make_model(IMAGES), p, y)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_batches_that_are_no_pixels_once_denormalised_are_refused(factor: float) -> None:
    p, y = make_batch(IMAGES)
    with pytest.raises(ValueError, match=r"expected inputs inside bounds=\(0\.0, 1\.0\), got values in \["):
        InputSpace(MEAN, STD).craft(FGSM(0.1), make_model(IMAGES), factor * normalised(p), y)


def test_without_bounds_any_value_goes() -> None:
    p, y = make_batch(IMAGES)
    x_adv = InputSpace(MEAN, STD).craft(GaussianNoise(0.1, bounds=None), make_model(IMAGES), 100 * p, y)
    assert x_adv.isfinite().all()


@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(4, 2, 5, 5, dtype=torch.int64)])
def test_inputs_must_be_a_floating_batch(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floating inputs \[N, \.\.\.\], got torch\."):
        InputSpace(0.5, 0.5).craft(FGSM(0.1), make_model(IMAGES), x, torch.zeros(4))


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.5], [0.5, 0.5]), ([0.5, 0.5], [0.5, 0.0]), (0.5, -1.0), (0.5, math.nan), ([0.5, 0.5, 0.5], 0.5)],
)
def test_mean_and_std_must_belong_together(mean: Any, std: Any) -> None:
    with pytest.raises(ValueError, match="expected mean and std of equal length with every std > 0, got mean="):
        InputSpace(mean, std)
