from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
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

from lsa_lightning import LayerSustainabilityAnalysis, RobustnessEvaluation
from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, GaussianNoise, InputSpace
from lsa_lightning.masking import MaskingChecks
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
    got = InputSpace(MEAN, STD)(ATTACKS[attack](0.1, (0.0, 1.0)))(body, normalised(p), y)
    torch.testing.assert_close(pixels(got), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("eps", [8 / 255, 0.2])
def test_eps_is_in_pixels(eps: float) -> None:
    p, y = make_batch(IMAGES)
    x_adv = InputSpace(MEAN, STD)(FGSM(eps))(make_model(IMAGES), normalised(p * 0.5 + 0.25), y)
    moved = (pixels(x_adv) - (p * 0.5 + 0.25)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, eps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd l2"])
def test_rounding_leads_out_of_neither_the_ball_nor_the_bounds(attack: str, dtype: torch.dtype) -> None:
    p, y = make_batch(IMAGES)
    x = normalised(p).to(dtype)
    given = InputSpace(MEAN, STD)(ATTACKS[attack](8 / 255, (0.0, 1.0)))
    x_adv = given(make_model(IMAGES, dtype), x, y)
    before, after = (pixels_of(each) for each in (x, x_adv))
    moves = (after - before).flatten(1)
    lengths = moves.abs().amax(1) if given.norm == "Linf" else moves.norm(dim=1)
    assert float(lengths.max()) <= 8 / 255 * (1 + 1e-12)
    assert float(lengths.max()) > 6 / 255
    # What x itself lacks or has too much by its own rounding is no move.
    assert float(after.min()) >= min(0.0, float(before.min()))
    assert float(after.max()) <= max(1.0, float(before.max()))


def pixels_of(x: Tensor) -> Tensor:
    """In float64, by the float32 constants that an InputSpace holds."""
    mean, std = (torch.tensor(values).double().view(1, -1, 1, 1) for values in (MEAN, STD))
    return x.double() * std + mean


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("attack", ["fgsm", "pgd l2", "gaussian"])
def test_eps_0_gives_exactly_x_back(attack: str, dtype: torch.dtype) -> None:
    p, y = make_batch(IMAGES)
    p[0, 0, 0], p[0, 1, 0] = 0.0, 1.0
    x = normalised(p).to(dtype)
    model = make_model(IMAGES, dtype)
    assert torch.equal(InputSpace(MEAN, STD)(ATTACKS[attack](0.0, (0.0, 1.0)))(model, x, y), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_black_and_white_pixels_survive_the_rounding_of_normalisation(dtype: torch.dtype) -> None:
    levels = torch.arange(256).repeat(2, 2, 1, 1).permute(3, 0, 1, 2)[:, 0, :, :1].unsqueeze(3) / 255
    x = normalised(levels.expand(256, 2, 5, 5).clone()).to(dtype)
    y = torch.zeros(256, dtype=torch.long)
    x_adv = InputSpace(MEAN, STD)(FGSM(8 / 255))(make_model(IMAGES, dtype), x, y)
    assert x_adv.dtype == dtype
    slack = 8 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert float(pixels(x_adv).min()) >= -slack
    assert float(pixels(x_adv).max()) <= 1 + slack


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attack", ATTACKS)
def test_works_where_gradients_are_off(attack: str, dtype: torch.dtype, context: Callable[[], Any]) -> None:
    model, (p, y) = make_model(IMAGES, dtype), make_batch(IMAGES, dtype=dtype)
    expected = InputSpace(MEAN, STD)(ATTACKS[attack](0.1, (0.0, 1.0)))(model, normalised(p), y)
    with context():
        got = InputSpace(MEAN, STD)(ATTACKS[attack](0.1, (0.0, 1.0)))(model, normalised(p), y)
        assert torch.equal(got, expected)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.5], [0.25]), ([0.5, 0.5], [0.25, 0.25])])
def test_one_value_serves_all_channels(mean: float | Sequence[float], std: float | Sequence[float]) -> None:
    p, y = make_batch(IMAGES)
    model = make_model(IMAGES)
    expected = InputSpace([0.5, 0.5], [0.25, 0.25])(FGSM(0.1))(model, (p - 0.5) / 0.25, y)
    assert torch.equal(InputSpace(mean, std)(FGSM(0.1))(model, (p - 0.5) / 0.25, y), expected)


def test_vectors_have_one_value_per_feature() -> None:
    p, y = make_batch("many classes")
    mean, std = torch.linspace(0.2, 0.7, 6), torch.linspace(0.1, 0.6, 6)
    x = (p - mean) / std
    x_adv = InputSpace(mean.tolist(), std.tolist())(FGSM(0.1))(make_model("many classes"), x, y)
    assert float(((x_adv - x) * std).abs().max()) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_in_eval_mode_inside_and_as_before_afterwards(frozen: bool) -> None:
    model, (p, y) = make_model(IMAGES), make_batch(IMAGES)
    model[1].train(not frozen)
    seen: list[bool] = []
    handle = model.register_forward_hook(lambda *_: seen.extend(m.training for m in model.modules()))
    modes = [m.training for m in model.modules()]
    InputSpace(MEAN, STD)(PGD(0.1, steps=2))(model, normalised(p), y)
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
        InputSpace(MEAN, STD)(PGD(0.1, steps=3))(model, normalised(p), y)
    assert_same_state(before, model_state(model))
    assert random_states() == randomness


@pytest.mark.parametrize("channels", [3, 5])
def test_the_number_of_channels_must_fit(channels: int) -> None:
    space, (p, y) = InputSpace([0.5] * channels, [0.5] * channels), make_batch(IMAGES)
    with pytest.raises(ValueError, match=rf"expected input_space with 1 or 2 channels .*, got {channels}"):
        space(FGSM(0.1))(make_model(IMAGES), p, y)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_batches_that_are_no_pixels_once_denormalised_are_refused(factor: float) -> None:
    p, y = make_batch(IMAGES)
    with pytest.raises(ValueError, match=r"expected inputs inside bounds=\(0\.0, 1\.0\), got values in \["):
        InputSpace(MEAN, STD)(FGSM(0.1))(make_model(IMAGES), factor * normalised(p), y)


def test_without_bounds_any_value_goes() -> None:
    p, y = make_batch(IMAGES)
    x_adv = InputSpace(MEAN, STD)(GaussianNoise(0.1, bounds=None))(make_model(IMAGES), 100 * p, y)
    assert x_adv.isfinite().all()


@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(4, 2, 5, 5, dtype=torch.int64)])
def test_inputs_must_be_a_floating_batch(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floating inputs \[N, \.\.\.\], got torch\."):
        InputSpace(0.5, 0.5)(FGSM(0.1))(make_model(IMAGES), x, torch.zeros(4))


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.5], [0.5, 0.5]), ([0.5, 0.5], [0.5, 0.0]), (0.5, -1.0), (0.5, math.nan), ([0.5, 0.5, 0.5], 0.5)],
)
def test_mean_and_std_must_belong_together(mean: Any, std: Any) -> None:
    with pytest.raises(ValueError, match=r"InputSpace: expected std.* to be .*, got "):
        InputSpace(mean, std)


def space() -> InputSpace:
    return InputSpace(MEAN, STD)


def pickle_and_back(attack: Attack) -> Attack:
    return pickle.loads(pickle.dumps(attack))


def test_it_is_an_attack_with_everything_in_pixels() -> None:
    pixels = APGD(0.1, 7, norm="L2", bounds=(0.0, 0.9), loss="dlr")
    attack = space()(pixels)
    assert isinstance(attack, Attack)
    assert (attack.eps, attack.norm, attack.bounds, attack.min_classes) == (0.1, "L2", (0.0, 0.9), 3)
    assert attack.threat == attack.with_eps(0.1).threat
    assert repr(attack) == f"InputSpace(mean={MEAN}, std={STD})({pixels!r})"


def test_with_eps_scales_the_step_size_in_pixels() -> None:
    p, y = make_batch(IMAGES)
    model, attack = make_model(IMAGES), PGD(0.05, steps=3, seed=0)
    got = space()(attack).with_eps(0.1)(model, normalised(p), y)
    assert torch.equal(got, space()(attack.with_eps(0.1))(model, normalised(p), y))


@pytest.mark.parametrize("copy", [lambda a: a.with_stream(3), lambda a: a.scaled(0.5), pickle_and_back, deepcopy])
def test_copies_keep_the_space(copy: Callable[[Attack], Attack]) -> None:
    p, y = make_batch(IMAGES)
    model = make_model(IMAGES)
    got = copy(space()(PGD(0.1, steps=2, seed=0)))(model, normalised(p), y)
    assert torch.equal(got, space()(copy(PGD(0.1, steps=2, seed=0)))(model, normalised(p), y))


def test_the_state_of_its_generator_goes_on() -> None:
    p, y = make_batch(IMAGES)
    model, first, second = make_model(IMAGES), space()(PGD(0.1, seed=0)), space()(PGD(0.1, seed=1))
    first(model, normalised(p), y)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(model, normalised(p), y), second(model, normalised(p), y))


def test_only_an_attack_can_be_put_into_a_space() -> None:
    with pytest.raises(ValueError, match="expected attack to be an Attack, such as PGD"):
        space()(lambda model, x, y: x)  # type: ignore[arg-type]


class Images(nn.Module):
    """A small network whose layers an analysis can tell apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 5)
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(8 * x)


@pytest.fixture
def raw() -> list[tuple[Tensor, Tensor]]:
    """Batches in pixels, labelled by the network itself but for a few."""
    p = torch.rand(96, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        y = Images()(normalised(p)).argmax(1)
    y[::7] = (y[::7] + 1) % 5
    return list(zip(p.split(48), y.split(48), strict=True))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_evaluation_masking_checks_and_analysis_equal_those_with_the_normalisation_inside_the_model(
    raw: list[tuple[Tensor, Tensor]], norm: str
) -> None:
    body, batches = Images(), [(normalised(p), y) for p, y in raw]
    inside = nn.Sequential(OrderedDict(normalize=Normalize(MEAN, STD), model=body)).double()
    eps = 0.01 if norm == "Linf" else 0.1
    attacks = {"fgsm": FGSM(eps, norm=norm), "pgd": PGD(eps, steps=5, norm=norm, seed=0)}

    expected = RobustnessEvaluation(attacks, [eps / 2, eps]).run(inside, raw)
    in_space = {name: space()(attack) for name, attack in attacks.items()}
    got = RobustnessEvaluation(in_space, [eps / 2, eps]).run(body, batches)
    assert got.accuracy == expected.accuracy
    assert expected.accuracy["fgsm"][2] < expected.accuracy["fgsm"][1] < expected.accuracy["fgsm"][0]

    checks = {"norm": norm, "n_samples": 60, "steps": 2, "n_queries": 5}
    flags = MaskingChecks(eps, **checks).run(inside, raw)
    assert MaskingChecks(eps, **checks, input_space=space()).run(body, batches) == flags

    for attack in attacks.values():
        report = LayerSustainabilityAnalysis(inside).run(raw, attack.with_eps(eps))
        normal = LayerSustainabilityAnalysis(body).run(batches, space()(attack).with_eps(eps))
        assert [f"model.{name}" for name in normal.layers] == report.layers
        torch.testing.assert_close(normal.mean, report.mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(normal.std, report.std, atol=1e-6, rtol=0)
        assert repr(space()(attack)) == normal.attack
