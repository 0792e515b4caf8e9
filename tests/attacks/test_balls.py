from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.attack_cases import DTYPES
from tests.helpers.no_float64 import NoFloat64
from torch import Tensor

from lsa_lightning.attacks.balls import BALLS, Ball, Bounds, L2Ball, LinfBall

LAYOUTS = ["plain", "vectors", "one sample", "channels_last", "transposed", "strided"]


def make_inputs(layout: str, dtype: torch.dtype, bounds: Bounds, scale: float, seed: int) -> Tensor:
    """Inputs of magnitude ``scale`` inside the bounds, in one of :data:`LAYOUTS`."""
    low, high = (-scale, scale) if bounds is None else bounds
    shape = {"vectors": (5, 3), "one sample": (1, 2, 4, 4)}.get(layout, (3, 2, 4, 4))
    generator = torch.Generator().manual_seed(seed)
    x = (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
    inside = (x.double() >= low) & (x.double() <= high)
    x = x.where(inside, torch.tensor((low + high) / 2).to(dtype))
    if layout == "channels_last":
        return x.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3)
    return x.repeat_interleave(2, dim=3)[..., ::2] if layout == "strided" else x


def assert_inside(points: Tensor, x: Tensor, eps: float, norm: str, bounds: Bounds) -> None:
    assert points.shape == x.shape
    assert points.dtype == x.dtype
    assert points.isfinite().all()
    delta, own = points.double() - x.double(), points - x
    if norm == "Linf":
        assert float(delta.abs().max()) <= eps
        assert float(own.abs().max()) <= eps
    else:
        assert float(delta.flatten(1).norm(dim=1).max()) <= eps
    if bounds is not None:
        assert float(points.double().min()) >= bounds[0]
        assert float(points.double().max()) <= bounds[1]


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    norm=st.sampled_from(list(BALLS)),
    layout=st.sampled_from(LAYOUTS),
    bounds=st.sampled_from([None, (0.0, 1.0), (0.1, 0.9), (-2.1179, 2.64), (0.0, 255.0)]),
    eps=st.one_of(st.just(0.0), st.floats(1e-6, 0.5), st.sampled_from([8 / 255, 2 / 255, 0.1, 0.3])),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 2**31),
)
def test_projection_start_and_step_stay_inside_exactly(
    dtype: torch.dtype, norm: str, layout: str, bounds: Bounds, eps: float, scale: float, seed: int
) -> None:
    x = make_inputs(layout, dtype, bounds, scale, seed)
    ball = BALLS[norm](x, eps, bounds)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(x.shape, generator=generator).to(dtype)
    far_away = (x.double() + 3 * eps * gradient.double()).to(dtype)
    for points in (
        ball.project(far_away),
        ball.random_point(generator),
        ball.ascend(x, gradient, 2 * eps),
        ball.ascend(ball.project(far_away), -gradient, 0.3 * eps),
    ):
        assert_inside(points, x, eps, norm, bounds)
    if eps == 0:
        assert torch.equal(ball.project(far_away), x)


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    norm=st.sampled_from(list(BALLS)),
    bounds=st.sampled_from([None, (0.0, 1.0), (0.1, 0.9), (-2.1179, 2.64)]),
    eps=st.one_of(st.just(0.0), st.floats(1e-6, 0.5), st.sampled_from([8 / 255, 0.1, 0.3])),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 300.0]),
    seed=st.integers(0, 2**31),
)
def test_a_device_without_float64_stays_inside_exactly(
    dtype: torch.dtype, norm: str, bounds: Bounds, eps: float, scale: float, seed: int
) -> None:
    x = make_inputs("plain", dtype, bounds, scale, seed)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(x.shape, generator=generator).to(dtype)
    with NoFloat64():
        ball = BALLS[norm](x, eps, bounds)
        far_away = ball.project(x + 3 * eps * gradient)
        tiny = 1e-30 * gradient.float()
        points = [far_away, ball.random_point(generator), ball.ascend(far_away, tiny, 0.3 * eps)]
    for inside in points:
        assert_inside(inside, x, eps, norm, bounds)


@pytest.mark.parametrize("norm", BALLS)
def test_tiny_gradients_give_a_step_without_float64_too(norm: str) -> None:
    x, gradient = torch.full((2, 3), 0.5), torch.tensor([[1e-30, 2e-30, -1e-30], [1.0, 2.0, -1.0]])
    with NoFloat64():
        points = BALLS[norm](x, 0.1, None).ascend(x, gradient, 0.05)
    torch.testing.assert_close(points, BALLS[norm](x, 0.1, None).ascend(x, gradient, 0.05))


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_inside_are_not_moved(norm: str, dtype: torch.dtype) -> None:
    x = torch.rand(4, 6, dtype=dtype) * 0.5 + 0.25
    points = x + 0.01 * torch.randn(4, 6, dtype=dtype).clamp(-1, 1)
    torch.testing.assert_close(BALLS[norm](x, 0.2, (0.0, 1.0)).project(points), points, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linf_projection_reaches_the_surface(dtype: torch.dtype) -> None:
    x = torch.full((2, 3), 0.5, dtype=dtype)
    moved = LinfBall(x, 0.1, (0.0, 1.0)).project(x + 1)
    assert float((moved - x).min()) >= 0.1 - 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-42, 1e-12, 1e-3, 1.0, 300.0, 1e30])
@pytest.mark.parametrize("eps", [0.0, 1e-45, 1e-12, 8 / 255, 0.3, 1.0, 1e10])
def test_linf_limits_are_the_outermost_numbers_inside(scale: float, eps: float) -> None:
    x = scale * (2 * torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) - 1)
    x[:90] = 0.75 * scale * 2.0 ** -torch.arange(90.0).unsqueeze(1)
    ball = LinfBall(x, eps, None)
    for limit, beyond in ((ball.low, -torch.inf), (ball.high, torch.inf)):
        next_one = torch.nextafter(limit, torch.full_like(limit, beyond))
        assert bool(((limit.double() - x.double()).abs() <= eps).all())
        assert bool(((next_one.double() - x.double()).abs() > ball.eps).all())


@pytest.mark.parametrize("bounds", [(0.1, 0.9), (-2.1179, 2.64)])
def test_linf_limits_hold_an_x_that_is_a_bound_in_float32(bounds: tuple[float, float]) -> None:
    x = torch.tensor(bounds).view(2, 1)
    ball = LinfBall(x, 0.01, bounds)
    assert bool(((ball.low <= x) & (x <= ball.high)).all())
    assert bool((ball.high[1] == x[1]).all() & (ball.low[0] == x[0]).all())


def test_l2_projection_keeps_the_direction_and_has_length_eps() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    moved = L2Ball(x, 0.5, None).project(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.3, 0.4]], dtype=torch.float64))
    torch.testing.assert_close(
        moved, torch.tensor([[0.3, 0.4, 0.0], [0.0, 0.3, 0.4]], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_l2_norm_is_taken_over_all_coordinates_of_each_sample() -> None:
    x = torch.zeros(2, 2, 3, 3)
    moved = L2Ball(x, 1.0, None).project(torch.ones(2, 2, 3, 3) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(("scale", "eps"), [(0.5051, 0.41852), (0.001, 0.0285131), (10.86, 58.32331)])
def test_l2_length_is_not_above_eps_in_float32_either(scale: float, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(20000, 4, generator=generator)
    moved = L2Ball(x, eps, None).project(x + 2 * eps * torch.randn(20000, 4, generator=generator))
    assert float((moved - x).norm(dim=1).max()) <= eps


def test_linf_start_is_uniform_in_the_ball() -> None:
    x = torch.full((100, 100), 0.5)
    delta = (LinfBall(x, 0.2, (0.0, 1.0)).random_point(torch.Generator().manual_seed(0)) - x) / 0.2
    assert float(delta.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(delta.std()) == pytest.approx(1 / math.sqrt(3), abs=0.02)
    assert float(delta.abs().max()) > 0.99


def test_l2_start_has_a_uniform_radius() -> None:
    x = torch.zeros(5000, 6)
    radius = L2Ball(x, 2.0, None).random_point(torch.Generator().manual_seed(0)).norm(dim=1) / 2.0
    assert float(radius.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(radius.std()) == pytest.approx(1 / math.sqrt(12), abs=0.02)


@pytest.mark.parametrize(
    ("norm", "expected"), [("Linf", [[0.1, -0.1], [0.0, 0.1]]), ("L2", [[0.06, -0.08], [0.0, 0.1]])]
)
def test_ascend_takes_a_step_of_length_alpha(norm: str, expected: list[list[float]]) -> None:
    x = torch.zeros(2, 2)
    moved = BALLS[norm](x, 1.0, None).ascend(x, torch.tensor([[30.0, -40.0], [0.0, 1e-30]]), 0.1)
    torch.testing.assert_close(moved, torch.tensor(expected))


@pytest.mark.parametrize("norm", BALLS)
def test_a_gradient_of_zero_gives_no_step(norm: str) -> None:
    x = torch.rand(2, 3)
    assert torch.equal(BALLS[norm](x, 0.3, None).ascend(x, torch.zeros(2, 3), 0.1), x)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize(("value", "eps"), [(0.5, 1e5), (6e4, 1e4), (-6e4, 1e4)])
def test_a_ball_wider_than_float16_gives_finite_points(norm: str, value: float, eps: float) -> None:
    x = torch.full((2, 3), value, dtype=torch.float16)
    ball = BALLS[norm](x, eps, None)
    assert_inside(ball.random_point(torch.Generator()), x, eps, norm, None)
    assert_inside(ball.ascend(x, x.sign(), eps), x, eps, norm, None)


@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
def test_memory_layout_is_kept(ball: type[Ball]) -> None:
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    start = ball(x, 0.1, (0.0, 1.0)).random_point(torch.Generator())
    assert start.is_contiguous(memory_format=torch.channels_last)
