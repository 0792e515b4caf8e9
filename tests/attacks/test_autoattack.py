from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FAB, Attack, AutoAttack, Square
from lsa_lightning.evaluation.ensemble import evaluate_ensemble
from lsa_lightning.functional import predicted_labels


def network(logits: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, logits)).eval()


def batch(net: nn.Module, n: int = 20) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, predicted_labels(net(x)).clone()


def small(eps: float = 0.1, **options: Any) -> AutoAttack:
    return AutoAttack(eps, **{"steps": 3, "n_queries": 10, "n_targets": 2, "n_restarts": 2, "n_eot": 2, **options})


def settings(attack: Attack) -> dict[str, Any]:
    names = ("steps", "loss", "n_targets", "n_restarts", "n_eot", "n_queries", "rho", "best", "p_init")
    names += ("rescale_schedule", "alpha_max", "eta", "beta")
    return {"is": type(attack)} | {name: vars(attack)[name] for name in names if name in vars(attack)}


CE = {"is": APGD, "steps": 100, "loss": "ce", "n_targets": None, "n_restarts": 1, "n_eot": 1, "rho": 0.75}
CE |= {"best": "success"}
TARGETED = {**CE, "loss": "dlr", "n_targets": 9}
FAB_T = {"is": FAB, "steps": 100, "n_targets": 9, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
SQUARE = {"is": Square, "n_queries": 5000, "p_init": 0.8, "rescale_schedule": False}
VERSIONS = {
    "standard": {"apgd_ce": CE, "apgd_t": TARGETED, "fab_t": FAB_T, "square": SQUARE},
    "plus": {
        "apgd_ce": {**CE, "n_restarts": 5},
        "apgd_dlr": {**CE, "loss": "dlr", "n_restarts": 5},
        "fab": {**FAB_T, "n_targets": None, "n_restarts": 5},
        "square": SQUARE,
        "apgd_t": TARGETED,
        "fab_t": FAB_T,
    },
    "rand": {"apgd_ce": {**CE, "n_eot": 20}, "apgd_dlr": {**CE, "loss": "dlr", "n_eot": 20}},
}
"""The authors' settings."""


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_have_the_attacks_and_settings_of_the_authors(version: str) -> None:
    attacks = AutoAttack(0.3, norm="L2", bounds=(-1.0, 1.0), seed=3, version=version).attacks
    assert {name: settings(attack) for name, attack in attacks.items()} == VERSIONS[version]
    assert list(attacks) == list(VERSIONS[version])
    for attack in attacks.values():
        assert (attack.eps, attack.norm, attack.bounds, attack.seed) == (0.3, "L2", (-1.0, 1.0), 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_attack_sees_only_what_still_stands(version: str) -> None:
    net = network()
    x, y = batch(net)
    turns = list(small(0.05, version=version, seed=0).in_turn(net, x, y))
    assert [name for name, _, _ in turns] == ["clean", *VERSIONS[version]]
    counts = [int(standing.sum()) for _, _, standing in turns]
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[-1] < counts[0]


@pytest.mark.parametrize(
    ("version", "left"),
    [
        ("standard", ["apgd_ce", "fab_t", "square"]),
        ("plus", ["apgd_ce", "fab", "square", "fab_t"]),
        ("rand", ["apgd_ce"]),
    ],
)
def test_one_logit_leaves_out_what_needs_more_classes(version: str, left: list[str]) -> None:
    net = network(1)
    with pytest.warns(UserWarning, match="Left out of the ensemble: apgd_"):
        result = evaluate_ensemble(net, [batch(net)], small(version=version, seed=0))
    assert list(result.accuracy) == ["clean", *left]
    assert all("classes, the model has fewer" in reason for reason in result.left_out.values())
    assert set(result.left_out) == set(VERSIONS[version]) - set(left)


def test_it_goes_on_from_a_state_file(tmp_path: Path) -> None:
    net = network()
    data, state = [batch(net, 6), batch(net, 4)], tmp_path / "state.jsonl"
    whole = evaluate_ensemble(net, data, small(seed=0))
    evaluate_ensemble(net, data[:1], small(seed=0), state_file=state)
    assert evaluate_ensemble(net, data, small(seed=0), state_file=state) == whole
    with pytest.raises(ValueError, match="give another file"):
        evaluate_ensemble(net, data, small(seed=0, version="plus"), state_file=state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "custom"}, r"expected version to be one of \['standard', 'plus', 'rand'\], got 'custom'"),
        ({"norm": "L1"}, "expected norm to be one of"),
        ({"n_eot": 0}, "expected n_eot to be an integer >= 1, got 0"),
        ({"n_restarts": 0}, "expected n_restarts to be an integer >= 1, got 0"),
    ],
    ids=str,
)
def test_arguments_outside_their_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoAttack(0.1, **options)
