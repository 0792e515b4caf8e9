"""When an attack checks: at once on the CPU and in a model's first batch, later where a GPU would be waited for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lsa_lightning import RobustnessEvaluation
from lsa_lightning.attacks import APGD, FAB, FGSM, NFGSM, PGD, Attack, Ensemble, Square, checks
from lsa_lightning.functional import predicted_labels
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.masking.checks import RandomSearch
from lsa_lightning.utils.devices import Arriving

ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(0.1),
    "nfgsm": NFGSM(0.1),
    "pgd": PGD(0.1, steps=3),
    "pgd l2": PGD(0.1, steps=3, norm="L2"),
    "apgd": APGD(0.1, steps=5),
}
X, Y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])


class CountsReads(TorchDispatchMode):
    """Counts the operations that wait for a device: reading a number, and finding what is nonzero."""

    count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__.split(".")[0]  # type: ignore[attr-defined]
        self.count += name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def running_ahead(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """As if the CPU ran ahead, as a GPU does; what is in the list says whether its numbers have arrived."""
    arrived = [True]
    monkeypatch.setattr(checks, "runs_ahead", lambda device: True)
    monkeypatch.setattr(Arriving, "has_arrived", property(lambda self: arrived[0]))
    return arrived


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def reads(attack: Attack, net: nn.Module) -> int:
    with CountsReads() as counter:
        attack(net, X, Y)
    return counter.count


@pytest.mark.parametrize("name", ATTACKS)
def test_after_the_first_batch_of_a_model_nothing_is_waited_for(name: str, running_ahead: list[bool]) -> None:
    attack, net = copy.deepcopy(ATTACKS[name]), network()
    running_ahead[0] = False
    assert reads(attack, net) > 0
    assert reads(attack, net) == 0
    weaker = attack.with_eps(0.05)
    reads(weaker, net)  # rounds its eps, on the host
    assert reads(weaker, net) == 0
    assert reads(attack, network()) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ATTACKS)
def test_on_a_gpu_too_and_what_is_wrong_is_found(name: str) -> None:
    attack, net, x, y = copy.deepcopy(ATTACKS[name]), network().cuda(), X.cuda(), Y.cuda()
    attack(net, x, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        attack(net, x, y)
        attack(net, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    attack(net, bad(float("nan")).cuda(), y)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="expected finite"):
        attack(net, x, y)


def bad(value: float) -> Tensor:
    x = X.clone()
    x[1, 2] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (bad(float("nan")), Y, "expected finite inputs, got values that are NaN or infinite"),
        (bad(1.5), Y, "expected inputs inside bounds"),
        (X, torch.tensor([0, 1, 2, 3]), r"expected labels in 0..1 for logits of shape \(4, 1\), got 0..3"),
    ],
)
def test_what_is_wrong_later_is_an_error_when_it_is_known(
    running_ahead: list[bool], x: Tensor, y: Tensor, message: str
) -> None:
    attack, net = PGD(0.1, steps=2), nn.Linear(6, 1)
    attack(net, X, Y.clamp(max=1))
    running_ahead[0] = False
    attack(net, x, y)
    attack(net, X, Y.clamp(max=1))
    running_ahead[0] = True
    with pytest.raises(ValueError, match=message + r".*\(in an earlier batch"):
        attack(net, X, Y.clamp(max=1))
    attack(net, X, Y.clamp(max=1))


@pytest.mark.parametrize("ask", [Attack.state_dict, Attack.restart])
def test_a_checkpoint_asks_for_what_is_on_its_way(running_ahead: list[bool], ask: Callable[[Attack], Any]) -> None:
    attack, net = FGSM(0.1), network()
    attack(net, X, Y)
    running_ahead[0] = False
    attack(net, bad(float("nan")), Y)
    with pytest.raises(ValueError, match="expected finite inputs"):
        ask(attack)


def test_a_model_that_breaks_down_later_is_an_error(running_ahead: list[bool]) -> None:
    attack, net = APGD(0.1, steps=3), nn.Linear(6, 3)
    attack(net, X, Y)
    net.weight.data[0, 0] = torch.nan
    attack(net, X, Y)
    with pytest.raises(ValueError, match="expected finite logits"):
        attack(net, X, Y)


def test_no_more_than_so_many_batches_wait(running_ahead: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST", 6)
    attack, net = FGSM(0.1), network()
    attack(net, X, Y)
    running_ahead[0] = False
    attack(net, bad(float("nan")), Y)
    attack(net, X, Y)
    with pytest.raises(ValueError, match="expected finite inputs"):
        attack(net, X, Y)


def test_the_cpu_is_checked_at_once_in_each_batch() -> None:
    attack, net = FGSM(0.1), network()
    attack(net, X, Y)
    with pytest.raises(ValueError, match="expected finite inputs, got 1 values"):
        attack(net, bad(float("nan")), Y)


def test_copies_in_other_processes_begin_afresh(running_ahead: list[bool]) -> None:
    attack, net = FGSM(0.1), network()
    attack(net, X, Y)
    attack(net, X, Y)
    again = pickle.loads(pickle.dumps(attack))
    assert reads(again, net) > 0


class Writes(nn.Module):
    """Normalises in place, by the tensor or by its data."""

    def __init__(self, through_data: bool) -> None:
        super().__init__()
        self.through_data = through_data
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        (x.data if self.through_data else x).sub_(0.5)
        return self.head(x)


@pytest.mark.parametrize("through_data", [False, True])
def test_a_model_that_writes_into_its_input_is_given_copies_in_all_batches(
    running_ahead: list[bool], through_data: bool
) -> None:
    net, attack = Writes(through_data), PGD(0.1, steps=3, random_start=False)
    expected = attack(lambda x: net.head(x - 0.5), X, Y)
    for _ in range(3):
        torch.testing.assert_close(attack(net, X, Y), expected)


def test_other_models_are_given_no_copies() -> None:
    class Sees(nn.Linear):
        leaves = 0

        def forward(self, x: Tensor) -> Tensor:
            self.leaves += x.is_leaf
            return super().forward(x)

    net = Sees(6, 3)
    PGD(0.1, steps=10)(net, X, Y)
    assert net.leaves == 9  # all but the first, which shows whether it writes


@pytest.mark.parametrize("through_data", [False, True])
def test_checks_and_noted_batches_give_it_copies_too(tmp_path: Path, through_data: bool) -> None:
    net = Writes(through_data)
    plain = nn.Sequential(Shift(), net.head)
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    batches, kept = [(x, predicted_labels(plain(x)).detach())], x.clone()
    checks = MaskingChecks(eps=0.1, steps=3, n_queries=10)
    assert checks.run(net, batches) == checks.run(plain, batches)
    evaluation = RobustnessEvaluation({"fgsm": FGSM()}, eps=[0.1])
    assert evaluation.run(net, batches, tmp_path / "noted.jsonl") == evaluation.run(plain, batches)
    assert torch.equal(x, kept)


class Shift(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5


class Squeezed(nn.Module):
    """Drops all dimensions of size 1, that of a single sample too."""

    def __init__(self, logits: int) -> None:
        super().__init__()
        self.head = nn.Linear(6, logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).squeeze()


@pytest.mark.parametrize("logits", [1, 3])
def test_models_that_squeeze_are_given_single_samples(logits: int) -> None:
    net = Squeezed(logits)
    x = torch.rand(16, 6, generator=torch.Generator().manual_seed(0))
    y = predicted_labels(net.head(x)).detach()
    attacks: list[Attack] = [PGD(0.3, steps=5, best="success", seed=0), APGD(0.3, 5, best="success", seed=0)]
    attacks += [Square(0.3, 20, seed=0), FAB(0.3, 5, seed=0)]
    for attack in attacks:
        assert torch.equal(attack.with_stream(0)(net, x, y), attack.with_stream(0)(net.head, x, y))
        attack(net, x[:1], y[:1])
    evaluation = RobustnessEvaluation({"fgsm": FGSM()}, eps=[0.1])
    singles = [(x[i : i + 1], y[i : i + 1]) for i in range(4)]
    assert evaluation.run(net, singles) == evaluation.run(net.head, singles)


class NaNAtTheEdge(nn.Module):
    """Sure of class 0; says NaN where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([x.sum(1) + 1, -x.sum(1)], dim=1)
        return logits.where((x > 0).all(1, keepdim=True), torch.nan)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    "attack",
    [
        FAB(0.1, 5),
        Square(0.1, 20),
        Square(0.1, 20, norm="L2"),
        RandomSearch(0.1, 20, norm="Linf", bounds=(0.0, 1.0), seed=0),
        Ensemble(0.1, attacks={"fgsm": FGSM(0.1)}),
        Ensemble(0.1, attacks={"square": Square(0.1, 20)}),
    ],
)
def test_nan_is_no_class(attack: Attack, label: int) -> None:
    class Model(NaNAtTheEdge):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1) if label else super().forward(x)

    x, y = torch.full((8, 6), 0.02), torch.full((8,), label)
    with pytest.raises(ValueError, match="expected finite logits, got NaN"):
        attack(Model(), x, y)
