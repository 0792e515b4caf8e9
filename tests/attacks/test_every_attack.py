"""What every attack keeps: eps and bounds exactly, everything around it as it was, wherever it is called."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.attack_cases import ATTACKS, CASES, own_labels
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.no_float64 import NoFloat64
from torch import Tensor, nn

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.utils.batch import part_of_batch

ALL = list(ATTACKS)
CALLING = [name for name in ALL if ATTACKS[name].passes > 0]
OF_FUNCTIONS = [name for name in CALLING if not ATTACKS[name].watches]
pytestmark = pytest.mark.filterwarnings("ignore:Left out of the ensemble")


class Net(nn.Module):
    """Flattens, with BatchNorm and dropout; one logit, or one per class."""

    def __init__(self, inputs: int, logits: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, logits)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.reshape(len(x), -1))


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values in other memory."""
    strided = torch.empty(*x.shape, 2, dtype=x.dtype)[..., 0].copy_(x)
    channels_last = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.T.contiguous().T if x.ndim == 2 else x
    return {"contiguous": x, "non-contiguous": strided, "channels last": channels_last}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(2,), (7,), (3, 5), (1, 4, 4), (3, 4, 5)]),
    n=st.sampled_from([1, 3]),
    logits=st.sampled_from([1, 2, 4, 100]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    layout=st.sampled_from(["contiguous", "non-contiguous", "channels last"]),
    bounds=st.sampled_from([(0.0, 1.0), (-2.5, 1.7), None]),
    eps=st.sampled_from([0.0, 1e-3, 8 / 255, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_eps_and_bounds_hold_exactly(
    name: str,
    shape: tuple[int, ...],
    n: int,
    logits: int,
    dtype: torch.dtype,
    layout: str,
    bounds: tuple[float, float] | None,
    eps: float,
    seed: int,
) -> None:
    logits = max(logits, CASES[name].logits)
    torch.manual_seed(seed)
    net = Net(int(np.prod(shape)), logits).to(dtype)
    x = torch.rand(n, *shape, dtype=torch.float64)
    if bounds != (0.0, 1.0):
        x = x * 4.2 - 2.5
    x = x.to(dtype)
    if bounds is not None:
        x = x.clamp(*(float(torch.tensor(b, dtype=dtype)) * 0.99 for b in bounds))
    x = layouts(x)[layout]
    before = x.clone()
    attack = CASES[name](eps, bounds)
    x_adv = attack(net, x, torch.randint(max(logits, 2), (n,)))
    delta = (x_adv.double() - x.double()).flatten(1)
    assert (x_adv.shape, x_adv.dtype, x_adv.requires_grad) == (x.shape, dtype, False)
    assert torch.equal(x, before)
    assert float(delta.norm(dim=1).max() if CASES[name].norm == "L2" else delta.abs().max()) <= attack.reach
    assert bounds is None or (x_adv.min() >= bounds[0] and x_adv.max() <= bounds[1])


class BatchStatistics(nn.Module):
    """A batch norm without running statistics, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(16, track_running_stats=False)
        self.body = nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Linear(16, 5))
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.body(x)


LETTING_GO = ["apgd success", "fab targeted", "square", "ensemble", "autoattack"]


@pytest.mark.parametrize("name", LETTING_GO)
def test_who_mixes_samples_is_given_the_whole_batch(name: str) -> None:
    """The first call looks; the second one knows."""
    net, x = BatchStatistics().eval(), torch.rand(64, 6)
    attack, y = ATTACKS[name](0.3), net(x).argmax(1)
    attack(net, x, y)
    net.sizes.clear()
    x_adv = attack(net, x, y)
    assert set(net.sizes) == {64}
    assert (net(x_adv).argmax(1) != y).any()


class Asks(Attack):
    """Moves some samples, asks about them alone, then about others."""

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        model(x)
        self.logits = []
        for rows in (torch.arange(0, 64, 2), torch.arange(1, 64, 4)):
            with part_of_batch(rows, len(x)):
                self.logits.append(model(x[rows] / 2).detach())
        return x


def test_the_others_of_the_batch_are_at_their_last_points() -> None:
    net, x = BatchStatistics().eval(), torch.rand(64, 6)
    attack = Asks(1.0)
    attack(net, x, torch.zeros(64).long())
    moved = x.clone()
    for rows, logits in zip((torch.arange(0, 64, 2), torch.arange(1, 64, 4)), attack.logits, strict=True):
        moved[rows] /= 2
        torch.testing.assert_close(logits, net(moved)[rows])


@pytest.mark.parametrize("name", LETTING_GO)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_who_does_not_is_given_those_that_are_left(name: str, dropout: float) -> None:
    class Counts(BatchStatistics):
        def __init__(self) -> None:
            super().__init__()
            self.body[1] = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x, dropout))

    net, x = Counts().eval(), torch.rand(64, 6)
    y = torch.arange(64) % 5  # most are wrong from the start
    ATTACKS[name](0.3)(net, x, y)
    ATTACKS[name](0.3)(net, x, y)
    assert net.sizes.count(64) < len(net.sizes) / 2


class Broken(torch.autograd.Function):
    """The identity, whose gradient is NaN for the last sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.cat([gradient[:-1], torch.full_like(gradient[-1:], torch.nan)])


@pytest.mark.parametrize("name", [name for name in CALLING if not name.startswith("square")])
def test_gradients_that_are_not_finite_are_named(name: str) -> None:
    class BrokenNet(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Broken.apply(x))

    net, x = BrokenNet(6, 5).eval(), torch.rand(4, 6)
    with pytest.raises(ValueError, match=r"expected a model with finite .*gradients"):
        ATTACKS[name](0.1)(net, x, net(x).argmax(1))


@pytest.mark.parametrize("of_model", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_x", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ALL)
def test_memory_format_is_that_of_x(name: str, of_x: torch.memory_format, of_model: torch.memory_format) -> None:
    """Also where the model's gradient has another: whatever it is compiled to fits all passes."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    model = body.to(memory_format=of_model)
    seen = set()
    model.register_forward_pre_hook(lambda _, args: seen.add(args[0].stride()[1:] if len(args[0]) > 1 else None))
    x = torch.rand(5, 3, 10, 10).contiguous(memory_format=of_x)
    assert ATTACKS[name](0.1)(model, x, torch.arange(5)).stride() == x.stride()
    assert seen <= {x.stride()[1:], None}


class Contiguous(Attack):
    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        return x.contiguous()


def test_memory_format_is_that_of_x_whatever_an_attack_returns() -> None:
    x = torch.rand(5, 3, 10, 10).contiguous(memory_format=torch.channels_last)
    assert Contiguous(0.1)(nn.Flatten(), x, torch.arange(5)).stride() == x.stride()


def everything(model: nn.Module) -> list[Any]:
    """What an attack must leave as it was, comparable with ==."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return [
        [tensor.detach().tolist() for tensor in tensors],
        [p.requires_grad for p in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    ]


PLACES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast in inference_mode": lambda: _both(torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)),
}


class _both(AbstractContextManager[None]):  # noqa: N801
    def __init__(self, *managers: Any) -> None:
        self.managers = managers

    def __enter__(self) -> None:
        for manager in self.managers:
            manager.__enter__()

    def __exit__(self, *error: object) -> None:
        for manager in reversed(self.managers):
            manager.__exit__(*error)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ALL)
def test_everything_is_left_as_it_was(name: str, place: str) -> None:
    net = Net(6, 5)
    net(torch.rand(4, 6)).sum().backward()
    net.body[1].eval()
    net.body[0].weight.requires_grad_(False)
    y = own_labels(net, torch.rand(4, 6, generator=torch.Generator().manual_seed(0)))
    before = everything(net)
    with PLACES[place]():
        x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
        x_adv = ATTACKS[name].make(0.1)(net, x, y)  # without a seed
    assert everything(net) == before
    assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("fail_at", [1, 2])
def test_modes_come_back_after_an_exception(name: str, fail_at: int) -> None:
    fail_at = min(fail_at, ATTACKS[name].passes)
    net = Net(6, 5)
    net.body[1].eval()
    x = torch.rand(4, 6)
    y, calls = own_labels(net, x), 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= fail_at:  # what fails for one batch alone is tried with another
            msg = "failing on purpose"
            raise RuntimeError(msg)

    net.register_forward_pre_hook(fail)
    before = everything(net)
    with pytest.raises(RuntimeError, match="on purpose"):
        ATTACKS[name](0.1)(net, x, y)
    assert everything(net) == before


class Attacked(ForeignModule):
    """Runs an attack in each of Lightning's steps; a part of the network is frozen."""

    def __init__(self, attack: Attack) -> None:
        super().__init__(dropout=0.5)
        self.attack = attack
        self.net.bn1.eval()
        self.net.conv1.requires_grad_(False)
        self.moved: list[float] = []

    def validation_step(self, batch: Any) -> None:
        x, y = batch[0], own_labels(self, batch[0])
        before = everything(self)
        x_adv = self.attack(self, x, y)
        assert everything(self) == before
        self.moved.append(float((x_adv - x).abs().max()))

    test_step = predict_step = validation_step


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_attacks_work_in_every_loop_of_the_trainer(name: str, precision: Any) -> None:
    module = Attacked(ATTACKS[name](0.1))
    run: pl.Trainer = trainer([], precision=precision)
    for loop in (run.validate, run.test, run.predict):
        loop(module, loader())
    assert len(module.moved) == 9
    assert min(module.moved) > 0
    assert max(module.moved) <= module.attack.reach + 1e-7


@pytest.mark.parametrize("name", ALL)
def test_input_space_keeps_eps_and_bounds_in_pixels_with_other_channels(name: str) -> None:
    mean, std = [0.2, 0.5, 0.7], [0.1, 0.25, 0.5]
    space, net = InputSpace(mean, std), Net(48, 4)
    pixels = torch.rand(5, 3, 4, 4)
    scale = torch.tensor(std).view(1, 3, 1, 1)
    x = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / scale
    x_adv = space(ATTACKS[name](0.05))(net, x, own_labels(net, x))
    delta = (x_adv - x) * scale
    size = delta.flatten(1).norm(dim=1) if CASES[name].norm == "L2" else delta.flatten(1).abs().amax(1)
    assert 0 < size.max() <= ATTACKS[name](0.05).reach + 1e-6
    assert (pixels + delta).min() >= -1e-6
    assert (pixels + delta).max() <= 1 + 1e-6
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("name", OF_FUNCTIONS)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: torch.full((len(x), 3), float("nan")), "expected finite logits, got NaN or infinite ones"),
        (lambda x: torch.full((len(x), 3), float("inf")), "expected finite logits, got NaN or infinite ones"),
        (lambda x: torch.zeros(len(x), 3, 2), r"expected the model to return logits of shape \[4\].*got \(4, 3, 2\)"),
        (lambda x: torch.zeros(len(x) + 1, 3), r"expected the model to return logits of shape \[4\].*got \(5, 3\)"),
        (lambda x: {"out": x}, r"expected the model to return logits .*got a dict with keys \['out'\]"),
    ],
    ids=["nan", "inf", "rank 3", "other batch", "dict"],
)
def test_bad_outputs_are_named(name: str, output: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ATTACKS[name](0.1)(output, torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("name", [name for name in ALL if ATTACKS[name].norm == "Linf"])
def test_eps_over_the_range_of_the_bounds_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected eps <= 1, the Linf diameter of the bounds \(0.0, 1.0\), got 1.1"):
        ATTACKS[name](1.1)


@pytest.mark.parametrize("name", CASES)
def test_a_device_without_float64_is_enough(name: str) -> None:
    x, net = torch.rand(4, 6), Net(6, 5)
    with NoFloat64():
        x_adv = CASES[name](0.1)(net, x, torch.tensor([0, 1, 2, 3]))
    assert x_adv.shape == x.shape


class BatchStatistics2d(nn.Module):
    """The same of images, which may be alone."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.body(x)


@pytest.mark.parametrize("name", LETTING_GO)
@pytest.mark.parametrize("right", [1, 2])
@pytest.mark.parametrize("cls", [BatchStatistics, BatchStatistics2d])
def test_few_that_are_left_have_the_statistics_of_the_batch(cls: type[nn.Module], right: int, name: str) -> None:
    torch.manual_seed(0)
    net, x = cls().eval(), torch.rand(8, 6) if cls is BatchStatistics else torch.rand(8, 3, 4, 4)
    y = net(x).argmax(1)
    y[right:] = (y[right:] + 1) % 5
    attack = ATTACKS[name](0.02)
    attack(net, x, y)
    net.sizes.clear()
    attack(net, x, y)
    assert set(net.sizes) == {8}


@pytest.mark.parametrize("name", LETTING_GO)
@pytest.mark.parametrize("first", [False, True])
def test_a_function_may_add_rows_of_its_own(first: bool, name: str) -> None:
    """Which it has for the whole batch alone, or takes from the beginning."""
    torch.manual_seed(0)
    net, x, rows = nn.Linear(6, 5), torch.rand(16, 6), 0.5 * torch.randn(16, 6)
    sizes: list[int] = []

    def model(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return net(inputs + (rows[: len(inputs)] if first else rows))

    y = model(x).argmax(1)
    y[6:9] = (y[6:9] + 1) % 5
    sizes.clear()
    x_adv = ATTACKS[name](0.1)(model, x, y)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert sizes.count(16) > len(sizes) - 4  # all but those that looked


@pytest.mark.parametrize("name", LETTING_GO)
@pytest.mark.parametrize("right", [1, 2])
def test_who_does_not_mix_samples_is_given_those_that_are_left(right: int, name: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net, x = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5)), torch.rand(16, 6)
        y = net(x).argmax(1)
        y[right:] = (y[right:] + 1) % 5
        sizes: list[int] = []
        net.register_forward_pre_hook(lambda module, args, sizes=sizes: sizes.append(len(args[0])))
        attack = ATTACKS[name](0.02)
        attack(net, x, y)
        assert sizes.count(16) <= 4
