"""What is asked of an attack that is made of others is asked of each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lsa_lightning.attacks import PGD, Attack, Ensemble, InputSpace

X, Y = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
WRAPPED: dict[str, Callable[[Attack], Attack]] = {
    "ensemble": lambda attack: Ensemble(attack.eps, attacks={"first/one": attack, "second": attack.with_eps(0.1)}),
    "input space": InputSpace(0.0, 1.0),
}


def right_everywhere(x: Tensor) -> Tensor:
    """Logits that no perturbation moves over the boundary, so that every attack of an ensemble is run."""
    return (10.0 * Y[:, None] * 2 - 10.0) + 0.1 * x.sum(1, keepdim=True)


def pgd(**options: Any) -> PGD:
    return PGD(0.1, 0.01, steps=1, **{"seed": 0, **options})


@pytest.mark.parametrize("name", WRAPPED)
def test_a_scaled_copy_goes_on_drawing_where_the_original_is(name: str) -> None:
    attack, expected = WRAPPED[name](pgd()), WRAPPED[name](pgd())
    attack.scaled(0.5)(right_everywhere, X, Y)
    expected(right_everywhere, X, Y)
    assert attack.state_dict().keys() == expected.state_dict().keys() != set()
    assert torch.equal(attack(right_everywhere, X, Y), expected(right_everywhere, X, Y))


class Remembering(PGD):
    """Starts where it ended."""

    memory: Tensor | None = None

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        self.memory = super().perturb(model, x, y, ball)
        return self.memory


@pytest.mark.parametrize("name", WRAPPED)
def test_a_scaled_attack_remembers_for_the_original_which_keeps_its_radius(name: str) -> None:
    inner = Remembering(0.1, 0.01, steps=1, seed=0)
    attack = InputSpace(0.0, 1.0)(inner) if name == "input space" else Ensemble(0.1, attacks={"one": inner})
    x_adv = attack.scaled(0.5)(right_everywhere, X, Y)
    remembering = attack.attacks["pixels" if name == "input space" else "one"]
    assert remembering.memory is not None
    assert float((x_adv - X).abs().max()) <= 0.05
    assert (remembering.eps, remembering.alpha, attack.eps) == (0.1, 0.01, 0.1)
    again = attack.scaled(0.5)
    assert again.eps == 0.05
    assert torch.equal(again(right_everywhere, X, Y), remembering.memory)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_restarted_attack_draws_the_same_again(name: str) -> None:
    attack = WRAPPED[name](pgd())
    first = attack(right_everywhere, X, Y)
    assert not torch.equal(attack(right_everywhere, X, Y), first)
    attack.restart()
    assert torch.equal(attack(right_everywhere, X, Y), first)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_copy_with_another_eps_starts_afresh(name: str) -> None:
    attack = WRAPPED[name](pgd())
    first = attack(right_everywhere, X, Y)
    assert not torch.equal(attack(right_everywhere, X, Y), first)
    assert torch.equal(attack.with_eps(0.1)(right_everywhere, X, Y), first)
    assert attack.with_eps(0.05).eps == 0.05
    assert float((attack.with_eps(0.05)(right_everywhere, X, Y) - X).abs().max()) <= 0.05


@pytest.mark.parametrize("name", WRAPPED)
def test_the_state_is_that_of_each_attack(name: str) -> None:
    attack, other = WRAPPED[name](pgd()), WRAPPED[name](pgd(seed=1))
    attack(right_everywhere, X, Y)
    other.load_state_dict(attack.state_dict())
    assert torch.equal(other(right_everywhere, X, Y), attack(right_everywhere, X, Y))
