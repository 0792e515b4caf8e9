from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FGSM, PGD, Ensemble, InputSpace, Square
from lsa_lightning.functional import predicted_labels


def network(logits: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, logits)).eval()


def small(eps: float = 0.1, **options: Any) -> Ensemble:
    return Ensemble(eps, steps=5, n_queries=20, seed=0, **options)


def batch(net: nn.Module, n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    y = predicted_labels(net(x)).clone()
    y[0] = 1 - y[0].clamp(0, 1)
    return x, y


def test_each_attack_sees_only_what_still_stands() -> None:
    net = network()
    x, y = batch(net)
    turns = list(small().in_turn(net, x, y))
    assert [name for name, _, _ in turns] == ["clean", "apgd_ce", "apgd_t", "square"]
    for (_, before, standing), (_, after, left) in pairwise(turns):
        assert torch.equal(before[~standing], after[~standing])
        assert not (left & ~standing).any()
        assert torch.equal(left, predicted_labels(net(after)) == y)
    assert torch.equal(turns[0][1], x)
    assert turns[0][2].sum() == 39
    assert 0 < turns[-1][2].sum() < 39


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_attack_starts_from_the_clean_input(norm: str) -> None:
    net = network()
    x, y = batch(net)
    delta = small(0.02, norm=norm)(net, x, y).double() - x.double()
    assert (delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)).max() <= 0.02


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_is_at_least_as_strong_as_each_member(norm: str) -> None:
    net = network()
    x, y = batch(net)
    ensemble = small(0.1 if norm == "Linf" else 0.2, norm=norm)
    left = predicted_labels(net(ensemble(net, x, y))) == y
    for name, attack in ensemble.attacks.items():
        assert left.sum() <= (predicted_labels(net(attack(net, x, y))) == y).sum(), name


@pytest.mark.parametrize("logits", [1, 2, 3])
def test_what_needs_more_classes_is_left_out_aloud(logits: int) -> None:
    net = network(logits)
    x, y = batch(net)
    classes = max(logits, 2)
    with pytest.warns(UserWarning, match=f"apgd_t: needs 4 classes, the model has {classes}"):
        small()(net, x, y)
    attacks, left_out = small().suitable(classes)
    assert list(attacks) == ["apgd_ce", "square"]
    assert left_out == {"apgd_t": f"needs 4 classes, the model has {classes}"}


def test_an_ensemble_with_nothing_left_is_an_error() -> None:
    ensemble = Ensemble(0.1, attacks={"t": APGD(loss="dlr", n_targets=2)})
    net = network(2)
    with pytest.raises(ValueError, match="expected an attack for a model of 2 classes, got"):
        ensemble(net, *batch(net))


def test_eps_and_stream_reach_the_members() -> None:
    ensemble = Ensemble(0.1, attacks={"fgsm": FGSM(0.3), "pgd": PGD(0.3, alpha=0.1)})
    assert [attack.eps for attack in ensemble.attacks.values()] == [0.1, 0.1]
    wider = ensemble.with_eps(0.2)
    assert [attack.eps for attack in wider.attacks.values()] == [0.2, 0.2]
    assert [attack.eps for attack in ensemble.attacks.values()] == [0.1, 0.1]
    pgd = small(0.2).with_stream(3).attacks["apgd_ce"]
    first = torch.rand(3, generator=pgd.generator(torch.device("cpu")))
    again = torch.rand(3, generator=small(0.2).with_stream(3).attacks["apgd_ce"].generator(torch.device("cpu")))
    other = torch.rand(3, generator=small(0.2).with_stream(4).attacks["apgd_ce"].generator(torch.device("cpu")))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_its_random_state_can_be_saved() -> None:
    net = network()
    x, y = batch(net)
    ensemble = small()
    ensemble(net, x, y)
    copy = small()
    copy.load_state_dict(ensemble.state_dict())
    assert set(ensemble.state_dict()) == {"apgd_ce/cpu", "apgd_t/cpu", "square/cpu"}
    assert torch.equal(copy(net, x, y), ensemble(net, x, y))


@pytest.mark.parametrize(
    "attacks", [{}, {"l2": PGD(0.1, norm="L2")}, {"other bounds": Square(0.1, bounds=None)}], ids=str
)
def test_members_of_another_threat_model_are_named(attacks: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError,
        match=r"expected attacks to be (attacks with norm='Linf'|a mapping of at least one name)",
    ):
        Ensemble(0.1, attacks=attacks)


def test_members_in_a_space_of_their_own_are_refused() -> None:
    with pytest.raises(ValueError, match=r"to be attacks in pixels, as InputSpace\(mean, std\)\(Ensemble\(attacks="):
        Ensemble(0.1, attacks={"pgd": InputSpace(0.5, 0.5)(PGD(0.1))})
