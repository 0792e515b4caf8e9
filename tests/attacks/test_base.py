from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.attack_cases import (
    ATTACKS,
    DTYPES,
    GRADIENT_ATTACKS,
    MODELS,
    NOISES,
    Failing,
    assert_same_state,
    make_batch,
    make_model,
    model_state,
    own_labels,
    random_states,
)
from torch import Tensor, nn

from lsa_lightning.attacks import FFGSM, FGSM, PGD, TPGD, Attack, GaussianNoise
from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Model

X, Y = make_batch("many classes")
LINEAR = nn.Linear(6, 7)
OWN = own_labels(LINEAR, X)
DRAWING = [name for name, case in ATTACKS.items() if case.draws]


def unusual_state(model: nn.Module, prefilled: bool) -> None:
    """Freeze a BatchNorm and a parameter, and fill gradients, as in the middle of gradient accumulation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
            module.weight.requires_grad_(False)
    if prefilled:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.25)


@settings(max_examples=150, deadline=None)
@given(
    attack=st.sampled_from(list(ATTACKS)),
    name=st.sampled_from(list(MODELS)),
    dtype=st.sampled_from(DTYPES),
    n=st.sampled_from([1, 4]),
    prefilled=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_an_attack_leaves_model_inputs_and_random_state_as_they_were(
    attack: str, name: str, dtype: torch.dtype, n: int, prefilled: bool, training: bool, seed: int
) -> None:
    model = make_model(name, dtype, seed).train(training)
    unusual_state(model, prefilled)
    x, y = make_batch(name, n, dtype, seed)
    x_before, y_before = x.clone(), y.clone()
    before, randomness = model_state(model), random_states()

    x_adv = ATTACKS[attack](0.1, (0.0, 1.0))(model, x, y)

    assert_same_state(before, model_state(model))
    assert random_states() == randomness
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
    assert not x.requires_grad
    assert x_adv.dtype == dtype
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad


@settings(max_examples=100, deadline=None)
@given(
    attack=st.sampled_from(list(GRADIENT_ATTACKS)),
    name=st.sampled_from(list(MODELS)),
    dtype=st.sampled_from(DTYPES),
    fail_at=st.integers(0, 1),
    prefilled=st.booleans(),
)
def test_an_exception_inside_the_model_leaves_everything_as_it_was(
    attack: str, name: str, dtype: torch.dtype, fail_at: int, prefilled: bool
) -> None:
    fail_at = min(fail_at, GRADIENT_ATTACKS[attack].passes - 1)
    model = Failing(make_model(name, dtype), fail_at)
    unusual_state(model, prefilled)
    before, randomness = model_state(model), random_states()
    with pytest.raises(RuntimeError, match="failing on purpose"):
        GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, *make_batch(name, dtype=dtype))
    assert_same_state(before, model_state(model))
    assert random_states() == randomness
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


class Product(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


@settings(max_examples=200, deadline=None)
@given(
    attack=st.sampled_from(list(ATTACKS)),
    dtype=st.sampled_from(DTYPES),
    bounds=st.sampled_from([None, (0.0, 1.0), (0.1, 0.9), (-2.1179, 2.64)]),
    eps=st.one_of(st.just(0.0), st.floats(1e-4, 0.5), st.sampled_from([8 / 255, 0.1, 0.3])),
    layout=st.sampled_from(["vectors", "images", "one sample", "channels_last", "transposed", "expanded"]),
    seed=st.integers(0, 2**31),
)
def test_eps_and_bounds_hold_exactly(
    attack: str, dtype: torch.dtype, bounds: Bounds, eps: float, layout: str, seed: int
) -> None:
    name = "many classes" if layout == "vectors" else "images, many classes"
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6 if layout == "vectors" else 50, 7, generator=generator).to(dtype)
    x, y = make_batch(name, 1 if layout == "one sample" else 3, torch.float64, seed)
    low, high = bounds or (-3.0, 3.0)
    x = (low + (high - low) * (0.01 + 0.98 * x)).to(dtype)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(2, 3)
    elif layout == "expanded":
        x = x[:1].expand(3, -1, -1, -1)

    x_adv = ATTACKS[attack](eps, bounds)(Product(weight), x, y)

    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    delta, own = x_adv.double() - x.double(), x_adv - x
    reach = ATTACKS[attack](eps, bounds).reach
    if ATTACKS[attack].norm == "L2":
        assert float(delta.flatten(1).norm(dim=1).max()) <= reach
    else:
        assert float(delta.abs().max()) <= reach
        assert float(own.abs().max()) <= reach
    if bounds is not None:
        assert float(x_adv.double().min()) >= bounds[0]
        assert float(x_adv.double().max()) <= bounds[1]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["flat logit", "two classes", "images, many classes"])
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_gradient_contexts_do_not_change_the_result(attack: str, name: str, context: Callable[[], Any]) -> None:
    model, (x, _) = make_model(name), make_batch(name)
    y = own_labels(model, x)
    expected = ATTACKS[attack](0.1, (0.0, 1.0))(model, x, y)
    with context():
        got = ATTACKS[attack](0.1, (0.0, 1.0))(model, x.clone(), y.clone())
        assert torch.equal(got, expected)
        assert model(got).isfinite().all()
    assert not torch.equal(got, x)
    assert not got.is_inference()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["flat logit", "two classes", "images, many classes"])
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_autocast(attack: str, name: str, context: Callable[[], Any]) -> None:
    model, (x, _) = make_model(name), make_batch(name)
    y = own_labels(model, x)
    with context(), torch.autocast("cpu", torch.bfloat16):
        model(x)
        x_adv = ATTACKS[attack](0.1, (0.0, 1.0))(model, x, y)
    assert x_adv.dtype == torch.float32
    assert float((x_adv.double() - x.double()).abs().max()) <= ATTACKS[attack](0.1).reach
    assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_parameters_still_get_gradients_after_an_attack_under_autocast(attack: str) -> None:
    model, (x, y) = make_model("many classes"), make_batch("many classes")
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, x, y)
        loss = nn.functional.cross_entropy(model(x_adv), y)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("attack", [name for name in GRADIENT_ATTACKS if name != "tpgd"])  # which does not see labels
@pytest.mark.parametrize("name", MODELS)
def test_gradient_attacks_increase_the_loss(attack: str, name: str) -> None:
    model, (x, y) = make_model(name).eval(), make_batch(name, n=16)
    maker = GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))
    x_adv = maker(model, x, y)
    target = model(x).detach() if isinstance(maker, TPGD) else y  # TPGD leaves the clean prediction, whatever the label
    assert maker.loss(model(x_adv), target).item() > maker.loss(model(x), target).item()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["one logit", "flat logit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bool])
def test_binary_labels_of_any_dtype(attack: str, name: str, dtype: torch.dtype) -> None:
    model, (x, y) = make_model(name), make_batch(name)
    expected, flat, column = (
        ATTACKS[attack](0.1, (0.0, 1.0))(model, x, labels) for labels in (y, y.to(dtype), y.to(dtype).unsqueeze(1))
    )
    assert torch.equal(flat, expected)
    assert torch.equal(column, expected)


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_the_model_is_attacked_in_eval_mode_with_its_own_buffers(attack: str) -> None:
    modes: list[bool] = []
    model = make_model("many classes")
    handle = model.register_forward_hook(lambda *_: modes.extend(m.training for m in model.modules()))
    GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, X, Y)
    handle.remove()
    assert modes
    assert not any(modes)


@pytest.mark.parametrize(
    "attack",
    [FGSM(0.1), PGD(0.1, steps=3, random_start=False), PGD(0.1, steps=3, norm="L2", random_start=False)],
    ids=repr,
)
def test_a_sample_is_perturbed_alike_in_any_batch(attack: Attack) -> None:
    model, (x, y) = make_model("many classes", torch.float64), make_batch("many classes", dtype=torch.float64)
    torch.testing.assert_close(attack(model, x, y)[:1], attack(model, x[:1], y[:1]))


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_a_plain_function_can_be_attacked(attack: str) -> None:
    weight = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    x_adv = GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(lambda x: x @ weight, X, Y)
    assert not torch.equal(x_adv, X)


@pytest.mark.parametrize("attack", ATTACKS)
def test_eps_0_gives_x_back(attack: str) -> None:
    assert torch.equal(ATTACKS[attack](0.0, (0.0, 1.0))(LINEAR, X, Y), X)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("scale", [50.0, 100.0])
def test_a_confident_model_does_not_stop_the_attack(norm: str, scale: float) -> None:
    """The label's probability rounds to 1 in float32, so the gradient of the usual loss would be 0."""
    x, y = torch.tensor([[0.9, 0.5]]), torch.tensor([0])
    x_adv = PGD(0.3, norm=norm, random_start=False)(lambda p: p * torch.tensor([scale, 0.0]), x, y)
    assert float((x - x_adv)[0, 0]) == pytest.approx(0.3, abs=1e-3)


# --- copies, seeds, state


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_the_step_size_scales_with_eps(attack: str) -> None:
    original = GRADIENT_ATTACKS[attack](0.2, (0.0, 1.0))
    original.alpha *= 1.5
    weaker = original.with_eps(0.05)
    assert weaker.eps == 0.05
    assert weaker.alpha == pytest.approx(original.alpha / 4)
    assert (original.eps, type(weaker)) == (0.2, type(original))
    assert weaker.with_eps(0.2).alpha == pytest.approx(original.alpha)


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_from_eps_0_the_step_size_starts_at_its_default(attack: str) -> None:
    default = GRADIENT_ATTACKS[attack](0.2, (0.0, 1.0))
    assert GRADIENT_ATTACKS[attack](0.0, (0.0, 1.0)).with_eps(0.2).alpha == pytest.approx(default.alpha)
    assert default.with_eps(0.0).with_eps(0.2).alpha == pytest.approx(default.alpha)


@pytest.mark.parametrize("attack", ATTACKS)
def test_with_eps_equals_an_attack_made_with_that_eps(attack: str) -> None:
    expected = ATTACKS[attack](0.1, (0.0, 1.0))(LINEAR, X, OWN)
    torch.testing.assert_close(ATTACKS[attack](0.2, (0.0, 1.0)).with_eps(0.1)(LINEAR, X, OWN), expected)


@pytest.mark.parametrize("attack", DRAWING)
def test_a_seed_fixes_the_stream_and_copies_do_not_move_it(attack: str) -> None:
    first, second = ATTACKS[attack](0.1, (0.0, 1.0)), ATTACKS[attack](0.1, (0.0, 1.0))
    results = [first(LINEAR, X, OWN) for _ in range(3)]
    weaker = second.with_eps(0.05)
    for expected in results:
        weaker(LINEAR, X, OWN)
        copy.deepcopy(second)(LINEAR, X, OWN)
        assert torch.equal(second(LINEAR, X, OWN), expected)


def test_successive_calls_draw_anew() -> None:
    attack = PGD(0.1, steps=1, alpha=1e-6, seed=0)
    assert not torch.equal(attack(LINEAR, X, OWN), attack(LINEAR, X, OWN))


def test_other_seeds_draw_other_starts() -> None:
    results = [PGD(0.1, steps=1, alpha=1e-6, seed=seed)(LINEAR, X, OWN) for seed in (0, 1, -1)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_without_a_seed_torchs_initial_seed_governs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = GaussianNoise(0.1)(LINEAR, X, OWN)
        torch.rand(5)  # the initial seed counts, not how much was drawn since
        second = GaussianNoise(0.1)(LINEAR, X, OWN)
        torch.manual_seed(4)
        third = GaussianNoise(0.1)(LINEAR, X, OWN)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_ranks_draw_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (0, 1, 0):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        results.append(GaussianNoise(0.1, seed=0)(LINEAR, X, OWN))
    assert not torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("attack", DRAWING)
def test_a_state_dict_resumes_the_stream(attack: str) -> None:
    original, resumed = ATTACKS[attack](0.1, (0.0, 1.0)), ATTACKS[attack](0.1, (0.0, 1.0))
    for _ in range(2):
        original(LINEAR, X, OWN)
    resumed.load_state_dict(original.state_dict())
    assert torch.equal(resumed(LINEAR, X, OWN), original(LINEAR, X, OWN))


def test_a_state_dict_holds_tensors_by_device_and_is_a_copy() -> None:
    attack = GaussianNoise(0.1, seed=0)
    assert attack.state_dict() == {}
    attack(LINEAR, X, Y)
    state = attack.state_dict()
    assert list(state) == ["cpu"]
    kept = state["cpu"].clone()
    attack(LINEAR, X, Y)
    assert torch.equal(state["cpu"], kept)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_states_of_devices_that_do_not_exist_are_left_out(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(device[-1]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device != "cuda:0")
    attack, other = GaussianNoise(0.1, seed=0), GaussianNoise(0.1, seed=1)
    other(LINEAR, X, Y)
    attack.load_state_dict({device: torch.zeros(16, dtype=torch.uint8), **other.state_dict()})
    assert torch.equal(attack(LINEAR, X, Y), other(LINEAR, X, Y))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_and_pickles_work_after_use(name: str, clone: Callable[[Attack], Attack]) -> None:
    attack = ATTACKS[name](0.1)
    attack(LINEAR, X, OWN)
    other = clone(attack)
    assert repr(other) == repr(attack)
    assert other.state_dict() == {}
    other(LINEAR, X, OWN)


def test_repr_shows_the_parameters_and_hides_the_generators() -> None:
    attack = PGD(eps=8 / 255, seed=3)
    attack(LINEAR, X, Y)
    assert repr(attack).startswith("PGD(steps=10, norm='Linf', bounds=(0.0, 1.0), eps=0.03137, ")
    assert "seed=3" in repr(attack)
    assert "generator" not in repr(attack)


def test_an_attack_of_ones_own_writes_only_perturb() -> None:
    class TowardsHigh(Attack):
        def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
            assert torch.is_grad_enabled()
            return ball.project(x + 1)

    x_adv = TowardsHigh(0.1)(LINEAR, X, Y)
    torch.testing.assert_close(x_adv, (X + 0.1).clamp_max(1.0))


# --- errors


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "8/255", None])
def test_eps_must_be_finite_and_not_negative(attack: str, eps: Any) -> None:
    with pytest.raises(ValueError, match=f"expected eps to be a finite number >= 0, got {eps!r}"):
        ATTACKS[attack](eps)
    with pytest.raises(ValueError, match=f"expected eps to be a finite number >= 0, got {eps!r}"):
        ATTACKS[attack](0.1).with_eps(eps)


def test_a_linf_eps_must_fit_into_the_bounds() -> None:
    with pytest.raises(ValueError, match=r"expected eps <= 1, the Linf diameter of the bounds \(0\.0, 1\.0\), got 8"):
        PGD(eps=8.0)
    assert PGD(eps=8.0, norm="L2").eps == 8.0
    assert PGD(eps=8.0, bounds=None).eps == 8.0


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.5, 0.5), (0.0, math.nan), (0.0,), (0.0, 0.5, 1.0)])
def test_bounds_must_rise(bounds: Any) -> None:
    with pytest.raises(ValueError, match=r"ThreatModel: expected bounds.* to be .*, got "):
        FGSM(0.01, bounds=bounds)


@pytest.mark.parametrize("attack", [FFGSM, PGD, TPGD])
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_must_be_finite_and_positive(attack: Callable[..., Attack], alpha: float) -> None:
    with pytest.raises(ValueError, match=f"expected alpha to be a finite number > 0 or None, got {alpha}"):
        attack(0.1, alpha=alpha)


def test_norm_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"expected norm to be one of \['Linf', 'L2'\], got 'L1'"):
        PGD(0.1, norm="L1")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("x", "y", "got"),
    [
        (torch.zeros(4, 6, dtype=torch.int64), Y, r"torch\.int64 \(4, 6\) and \(4,\)"),
        (torch.zeros(4), Y, r"torch\.float32 \(4,\) and \(4,\)"),
        (torch.zeros(0, 6), Y[:0], r"\(0, 6\) and \(0,\)"),
        (torch.zeros(3, 6), Y, r"\(3, 6\) and \(4,\)"),
        (torch.zeros(1, 6), torch.tensor(0), r"\(1, 6\) and \(\)"),
    ],
)
def test_inputs_must_be_a_batch(attack: str, x: Tensor, y: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=rf"expected floating inputs \[N, \.\.\.\].*, got .*{got}"):
        ATTACKS[attack](0.1, (0.0, 1.0))(LINEAR, x, y)


@pytest.mark.parametrize("attack", ["fgsm", "salt"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_inputs_must_be_finite(attack: str, dtype: torch.dtype, value: float, bounds: Bounds) -> None:
    x = X.to(dtype, copy=True)
    x[1, 2] = value
    with pytest.raises(ValueError, match="expected finite inputs, got 1 values that are NaN or infinite"):
        ATTACKS[attack](0.1, bounds)(LINEAR, x, Y)


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_inputs_must_lie_inside_the_bounds(value: float) -> None:
    x = X.clone()
    x[0, 0] = value
    with pytest.raises(ValueError, match=rf"expected inputs inside bounds=\(0\.0, 1\.0\), got .*{value}.*input_space"):
        FGSM(0.1)(LINEAR, x, Y)


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (LINEAR, Y + 7, r"expected labels in 0\.\.6 for logits of shape \(4, 7\), got "),
        (LINEAR, Y - 7, r"expected labels in 0\.\.6 for logits of shape \(4, 7\), got -"),
        (
            nn.Linear(6, 1),
            torch.tensor([0, 1, 2, 0]),
            r"expected labels in 0\.\.1 for logits of shape \(4, 1\), got 0\.\.2",
        ),
        (nn.Linear(6, 1), torch.tensor([0, 1, math.nan, 0]), r"expected labels in 0\.\.1 .*, got nan"),
        (LINEAR, torch.zeros(4, 7), r"expected one label per sample, shape \[4\], got \(4, 7\)"),
        (LINEAR, Y.unsqueeze(1), r"expected one label per sample, shape \[4\], got \(4, 1\)"),
        (lambda x: (x,), Y, r"expected the model to return logits .*, got a tuple of"),
        (lambda x: x.view(4, 2, 3), Y, r"expected the model to return logits .*\[4, C\], got \(4, 2, 3\)"),
        (lambda x: x[:2], Y, r"expected the model to return logits of shape \[4\].*, got \(2, 6\)"),
        (lambda x: x / 0, Y, "expected finite logits, got NaN or infinite ones"),
    ],
)
def test_labels_and_logits_must_fit(attack: str, model: Any, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, X, y)


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
@pytest.mark.parametrize("model", [lambda x: torch.zeros(4, 7), lambda x: LINEAR(x.detach()), lambda x: x.detach()])
def test_the_model_must_be_differentiable(attack: str, model: Any) -> None:
    with pytest.raises(
        ValueError, match=r"expected a model that is differentiable .*, got an output without a gradient"
    ):
        GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, X, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
def test_a_gradient_that_is_not_finite_is_an_error(attack: str) -> None:
    def model(x: Tensor) -> Tensor:
        return LINEAR(x + (x * 0).sqrt())  # the slope of the square root at 0 is infinite, times 0 is NaN

    with pytest.raises(ValueError, match="expected a model with finite gradients, got a perturbed input"):
        GRADIENT_ATTACKS[attack](0.1, (0.0, 1.0))(model, X, Y)


@pytest.mark.parametrize("attack", NOISES)
def test_noises_never_call_the_model(attack: str) -> None:
    state = (np.random.get_state()[1][0], random.getstate())
    ATTACKS[attack](0.1, (0.0, 1.0))(Failing(LINEAR, 0), X, Y)
    assert state == (np.random.get_state()[1][0], random.getstate())


@pytest.mark.parametrize(("mean", "std"), [(0.1307, 0.3081), (0.4914, 0.2470), (0.485, 0.229), (0.2860, 0.3530)])
def test_bounds_are_those_of_pixels_that_were_normalised(mean: float, std: float) -> None:
    pixels = torch.rand(4, 6).round()
    bounds = ((0 - mean) / std, (1 - mean) / std)
    for x in ((pixels - mean) / std, torch.randn(4, 6).clamp(*bounds)):
        x_adv = FGSM(0.01, bounds=bounds)(LINEAR, x, Y)
        assert (x_adv.double() - x.double()).abs().max() <= 0.01
        assert bounds[0] - 1e-6 < x_adv.min() <= x_adv.max() < bounds[1] + 1e-6
    with pytest.raises(ValueError, match="expected inputs inside bounds"):
        FGSM(0.01, bounds=bounds)(LINEAR, x + 1e-3 + (bounds[1] - x.max()), Y)


@pytest.mark.parametrize("bound", [0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_inputs_may_be_a_bound_that_rounding_moves(bound: float, dtype: torch.dtype) -> None:
    model, x = nn.Linear(6, 7, dtype=dtype), torch.full((4, 6), bound, dtype=dtype)
    x_adv = FGSM(0.05, bounds=(0.0, bound))(model, x, Y)
    assert x_adv.max() <= x.max()
    with pytest.raises(ValueError, match="expected inputs inside bounds"):
        FGSM(0.05, bounds=(0.0, bound))(model, x * (1 + 4 * max(torch.finfo(dtype).eps, 1e-6)), Y)
