"""Attacks of torchattacks and foolbox themselves, through the adapter."""

from __future__ import annotations

import functools
from collections.abc import Callable

import foolbox
import pytest
import torch
import torchattacks
from tests.helpers.digits import held_out, trained

from lsa_lightning.attacks import ExternalAttack
from lsa_lightning.evaluation import correct, evaluate_robustness

MAKERS: dict[str, Callable[[], ExternalAttack]] = {
    "torchattacks.FGSM": lambda: ExternalAttack(torchattacks.FGSM, 0.2),
    "torchattacks.MIFGSM": lambda: ExternalAttack(torchattacks.MIFGSM, 0.2),
    "torchattacks.APGD": lambda: ExternalAttack(functools.partial(torchattacks.APGD, steps=5), 0.2),
    "torchattacks.CW": lambda: ExternalAttack(functools.partial(torchattacks.CW, c=10, steps=50), 1.5, norm="L2"),
    "torchattacks.Square": lambda: ExternalAttack(functools.partial(torchattacks.Square, n_queries=100), 0.2),
    "foolbox.LinfPGD": lambda: ExternalAttack(foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=5), 0.2),
    "foolbox.LinfDeepFool": lambda: ExternalAttack(foolbox.attacks.LinfDeepFoolAttack(steps=10), 0.2),
    "foolbox.L2PGD": lambda: ExternalAttack(foolbox.attacks.L2PGD(rel_stepsize=0.25, steps=5), 1.5, norm="L2"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_fools_within_its_ball_and_leaves_everything_as_it_was(name: str) -> None:
    model, (x, y) = trained("cnn, normal"), held_out(60)
    attack = MAKERS[name]()
    before, gradients = torch.get_rng_state(), [parameter.grad.clone() for parameter in model.parameters()]
    x_adv = attack(model, x, y)
    delta = (x_adv - x).flatten(1).norm(p=2 if attack.norm == "L2" else float("inf"), dim=1)
    assert delta.max() <= attack.eps
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert correct(model, x_adv, y).float().mean() < correct(model, x, y).float().mean() - 0.2
    assert torch.equal(before, torch.get_rng_state())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_sweep_over_eps_scales_it() -> None:
    table = evaluate_robustness(
        trained("cnn, normal"), [held_out(60)], attacks={"mifgsm": MAKERS["torchattacks.MIFGSM"]()}, eps=[0.02, 0.3]
    )
    clean, small, large = table.accuracy["mifgsm"]
    assert clean >= small > large + 20


@pytest.mark.parametrize(
    ("attack", "own"),
    [
        (torchattacks.APGD, "Linf"),
        (functools.partial(torchattacks.Square, norm="L2"), "L2"),
        (torchattacks.PGD, "Linf"),
        (torchattacks.SPSA, "Linf"),
        (torchattacks.PGDL2, "L2"),
        (foolbox.attacks.LinfPGD(), "Linf"),
        (foolbox.attacks.L2CarliniWagnerAttack(), "L2"),
    ],
)
def test_an_attack_of_another_norm_is_refused(attack: Callable[..., object], own: str) -> None:
    other = {"Linf": "L2", "L2": "Linf"}[own]
    assert ExternalAttack(attack, 0.2, norm=own).norm == own
    with pytest.raises(ValueError, match=rf"one that works in norm='{other}' \(this one works in {own}\), got"):
        ExternalAttack(attack, 0.2, norm=other)


class Spelled:
    """An attack of somebody else, which calls norms by its own names."""

    def __init__(self, model: object, eps: float = 0.1, norm: object = "linf") -> None:
        self.eps = eps

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("norm", "own"), [(2, "L2"), (2.0, "L2"), ("l2", "L2"), (float("inf"), "Linf"), ("linf", "Linf"), ("Linf", "Linf")]
)
def test_norms_may_be_spelled_otherwise(norm: object, own: str) -> None:
    assert ExternalAttack(functools.partial(Spelled, norm=norm), 0.2, norm=own).norm == own
    assert ExternalAttack(functools.partial(Spelled, norm="of its own"), 0.2, norm=own).norm == own
    with pytest.raises(ValueError, match=f"this one works in {own}"):
        ExternalAttack(functools.partial(Spelled, norm=norm), 0.2, norm={"L2": "Linf", "Linf": "L2"}[own])
