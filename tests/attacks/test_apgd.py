from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lsa_lightning.attacks import APGD
from lsa_lightning.attacks.apgd import _Goal, checkpoints
from lsa_lightning.attacks.losses import cross_entropy, dlr
from lsa_lightning.functional import classification_loss, predicted_labels
from lsa_lightning.utils.random import Purpose, generator_of

Loss = Callable[[Tensor, Tensor], Tensor]
PUBLISHED = {
    10: [2, 3, 4, 5, 6, 7, 8, 9, 10],
    20: [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
    50: [11, 21, 30, 38, 45],
    100: [22, 41, 57, 70, 80, 87, 93, 99],
}


def model(classes: int = 4, inputs: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes)).double().eval()


def batch(n: int = 12, classes: int = 4, inputs: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def losses(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return classification_loss(net(x), y, reduction="none")


@pytest.mark.parametrize("steps", PUBLISHED)
def test_checkpoints_are_the_published_ones(steps: int) -> None:
    assert checkpoints(steps) == PUBLISHED[steps]


@pytest.mark.parametrize("steps", range(1, 201))
def test_periods_shrink_by_3_percent_and_not_under_6(steps: int) -> None:
    at = [0, *checkpoints(steps)]
    periods = [b - a for a, b in pairwise(at)]
    assert periods[0] == max(int(22 * steps / 100 + 1e-9), 1)
    decrement, shortest = max(3 * steps // 100, 1), max(6 * steps // 100, 1)
    assert all(b == max(a - decrement, shortest) for a, b in pairwise(periods))
    assert at[-1] <= steps


def one_sample_by_hand(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    eps: float,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Algorithm 1 of the APGD paper for a single sample and Linf, with plain Python control flow."""

    def value_and_gradient(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        value = loss(net(point), y).sum()
        return float(value.detach()), torch.autograd.grad(value, point)[0]

    def project(point: Tensor) -> Tensor:
        return point.clamp(x - eps, x + eps).clamp(0, 1)

    eta, current, previous = 2 * eps, start, start
    value, gradient = value_and_gradient(current)
    best, best_value, best_gradient = current, value, gradient
    increases, last, was_halved, best_then = 0, 0, True, value
    for step in range(1, steps + 1):
        momentum = 1.0 if step == 1 else 0.75
        z = project(current + eta * gradient.sign())
        current, previous = project(current + momentum * (z - current) + (1 - momentum) * (current - previous)), current
        old, (value, gradient) = value, value_and_gradient(current)
        increases += value > old
        if value > best_value:
            best, best_value, best_gradient = current, value, gradient
        if step in PUBLISHED[steps]:
            was_halved = increases < 0.75 * (step - last) or (not was_halved and best_value == best_then)
            if was_halved:
                eta, current, value, gradient = eta / 2, best, best_value, best_gradient
            increases, last, best_then = 0, step, best_value
    return best


@pytest.mark.parametrize(("name", "loss"), [("ce", F.cross_entropy), ("dlr", dlr)])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_each_sample_follows_the_algorithm_written_out_for_one(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], steps: int
) -> None:
    net, (x, y) = model(), batch()
    generator = generator_of(5, Purpose.ATTACK, 0)
    noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
    starts = (x + 0.2 * noise / noise.abs().amax(dim=1, keepdim=True)).clamp(0, 1)
    got = APGD(0.2, steps, loss=name, seed=5)(net, x, y)
    for i in range(len(x)):
        row = slice(i, i + 1)
        expected = one_sample_by_hand(net, x[row], y[row], starts[row], 0.2, steps, loss)
        torch.testing.assert_close(got[row], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_start_lies_at_distance_eps(norm: str) -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x

    x = torch.rand(8, 5) * 100
    APGD(0.5, 1, norm=norm, bounds=None)(Watching(), x, torch.zeros(8, dtype=torch.long))
    delta = (seen[1] - x).double()
    distance = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.5), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("best", ["loss", "success"])
def test_no_sample_influences_another(norm: str, best: str) -> None:
    net, (x, y) = model(), batch()
    together = APGD(0.1, 20, norm=norm, best=best, n_restarts=2, seed=3)(net, x, y)
    swapped = torch.cat([x[:1], x[1:].flip(0)]), torch.cat([y[:1], y[1:].flip(0)])
    assert torch.equal(APGD(0.1, 20, norm=norm, best=best, n_restarts=2, seed=3)(net, *swapped)[0], together[0])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_training_gets_the_highest_loss_that_was_seen(norm: str) -> None:
    net, (x, y) = model(), batch()
    seen: list[Tensor] = []

    def watching(points: Tensor) -> Tensor:
        if points.requires_grad:
            seen.append(losses(net, points, y))
        return net(points)

    x_adv = APGD(0.2, 20, norm=norm, n_restarts=2, seed=0)(watching, x, y)
    assert len(seen) == 2 * 21
    torch.testing.assert_close(losses(net, x_adv, y), torch.stack(seen).amax(0))
    assert (losses(net, x_adv, y) > losses(net, x, y)).all()


def test_evaluation_gets_the_first_success_and_leaves_clean_errors_alone() -> None:
    net, (x, _) = model().double(), batch()
    x = x.double()
    y = predicted_labels(net(x)).clone()
    y[0] = (y[0] + 1) % 4
    path: list[Tensor] = []
    sizes: list[int] = []

    def watching(points: Tensor) -> Tensor:
        path.append(points.detach().clone())
        return net(points)

    def counting(points: Tensor) -> Tensor:
        sizes.append(len(points))
        return net(points)

    APGD(0.3, 20, seed=0)(watching, x, y)
    x_adv = APGD(0.3, 20, best="success", seed=0)(counting, x, y)
    fooled = torch.stack([predicted_labels(net(points)) != y for points in [x, *path]])
    first = fooled.int().argmax(0)
    assert fooled[0].tolist() == [True] + [False] * (len(x) - 1)
    assert len(set(first[fooled.any(0)].tolist())) > 2
    assert not fooled.any(0).all()
    for i in fooled.any(0).nonzero().flatten().tolist():
        torch.testing.assert_close(x_adv[i], [x, *path][first[i]][i])
    # Who is fooled is in no pass any more, but for those that show that the model does not mix samples.
    standing = [int((~fooled[: step + 1].any(0)).sum()) for step in range(len(path))]
    few = standing[0] // 4
    assert sizes == [len(x), few, few, len(x), *standing]


def test_evaluation_stops_when_all_are_fooled() -> None:
    calls = 0

    def always_wrong_off_centre(points: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.stack([points.sum(1) * 0 + 2 * (calls == 1), points.sum(1) * 0 + 1], dim=1)

    APGD(0.1, 50, best="success", n_restarts=5)(always_wrong_off_centre, torch.rand(3, 2), torch.zeros(3).long())
    assert calls == 2


def test_more_restarts_and_more_targets_are_not_weaker() -> None:
    net, (x, _) = model(), batch(60)
    y = predicted_labels(net(x))

    def left(attack: APGD) -> int:
        return int((predicted_labels(net(attack(net, x, y))) == y).sum())

    one = left(APGD(0.15, 10, best="success", seed=0))
    assert left(APGD(0.15, 10, best="success", n_restarts=3, seed=0)) <= one
    targeted = [left(APGD(0.15, 10, loss="dlr", n_targets=n, best="success", seed=0)) for n in (1, 2, 3, 9)]
    assert targeted == sorted(targeted, reverse=True)
    assert targeted[2] == targeted[3]


def test_targets_are_the_most_likely_wrong_classes_in_order() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2, 0.0]])
    rounds = APGD(loss="dlr", n_targets=3)._rounds(logits, torch.tensor([1]))
    assert [int(target) for target in rounds if target is not None] == [2, 3, 0]


@pytest.mark.parametrize(
    ("classes", "options", "expected"),
    [(1, {}, 3), (2, {}, 3), (1, {"n_targets": 1}, 4), (2, {"n_targets": 1}, 4), (3, {"n_targets": 1}, 4)],
)
def test_too_few_classes_are_named(classes: int, options: dict[str, int], expected: int) -> None:
    x, y = batch(classes=min(classes + 1, 2))
    message = rf"expected at least {expected} classes for APGD\(.*, got logits of shape \(12, {classes}\)"
    with pytest.raises(ValueError, match=message):
        APGD(0.1, 3, loss="dlr", **options)(model(classes), x, y)


def test_dlr_works_from_three_classes_and_targets_from_four() -> None:
    x, y = batch(classes=3)
    assert (APGD(0.1, 3, loss="dlr")(model(3), x, y) - x).abs().max() <= 0.1
    x, y = batch()
    assert (APGD(0.1, 3, loss="dlr", n_targets=9)(model(4), x, y) - x).abs().max() <= 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "APGD: expected steps to be an integer >= 1, got 0"),
        ({"loss": "mse"}, "loss to be one of ['ce', 'dlr'], got 'mse'"),
        ({"n_targets": 3}, "n_targets to be None, or an integer >= 1 with loss='dlr', got 3"),
        ({"n_targets": 0, "loss": "dlr"}, "n_targets to be an integer >= 1 or None, got 0"),
        ({"n_restarts": 0}, "n_restarts to be an integer >= 1, got 0"),
        ({"n_eot": 0}, "n_eot to be an integer >= 1, got 0"),
        ({"rho": 1.5}, "rho to be a finite number in [0, 1], got 1.5"),
        ({"best": "last"}, "best to be one of ['loss', 'success'], got 'last'"),
        ({"eps": 1.5}, "eps <= 1, the Linf diameter of the bounds (0.0, 1.0), got 1.5"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        APGD(**options)  # type: ignore[arg-type]


def test_an_l2_radius_beyond_the_bounds_is_named_at_the_first_batch() -> None:
    x, y = batch()
    with pytest.raises(ValueError, match=r"eps <= 2\.449, the L2 diameter of the bounds \(0\.0, 1\.0\), got 3"):
        APGD(3.0, norm="L2")(model(), x, y)


@pytest.mark.parametrize("first_bad", [2, 4])
def test_logits_that_stop_being_finite_are_named(first_bad: int) -> None:
    calls = 0

    def breaks_down(points: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return points * (float("nan") if calls >= first_bad else 1)

    with pytest.raises(ValueError, match="expected a model with finite logits and gradients, got a loss that is NaN"):
        APGD(0.1, 5)(breaks_down, torch.rand(3, 2), torch.tensor([0, 1, 0]))


class Noisy(nn.Module):
    """Two classes; each pass shifts the logits by the next of a few numbers."""

    def __init__(self, shifts: list[float]) -> None:
        super().__init__()
        self.shifts, self.calls = shifts, 0

    def forward(self, points: Tensor) -> Tensor:
        shift = self.shifts[self.calls % len(self.shifts)]
        self.calls += 1
        return torch.stack([points.square().sum(1) + shift, (1 + shift) * points.sum(1)], dim=1)


def test_losses_and_gradients_are_the_mean_of_several_passes() -> None:
    x, y, shifts = batch()[0], torch.zeros(12, dtype=torch.long), [0.0, 0.5, 1.0]
    point = x.clone().requires_grad_()
    each = torch.stack([F.cross_entropy(Noisy([shift])(point), y, reduction="none") for shift in shifts])
    fooled, loss, gradient = APGD(0.1, n_eot=3)._look(Noisy(shifts), _Goal(cross_entropy, y, None), x)
    assert fooled is None
    torch.testing.assert_close(loss, each.mean(0).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(each.mean(0).sum(), point)[0])
    net = Noisy([0.0])
    APGD(0.1, 4, n_eot=3)(net, x, y)
    assert net.calls == 15


def test_of_a_random_model_misclassified_is_what_is_so_in_each_pass() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    for shifts, expected in (([-1.0, -1.0], True), ([-1.0, 1.0], False), ([1.0, -1.0], False)):
        attack = APGD(0.1, n_eot=2, best="success")
        fooled, _, _ = attack._look(Noisy(shifts), _Goal(cross_entropy, y, None), x)
        assert fooled is not None
        assert fooled.tolist() == [expected] * 4
