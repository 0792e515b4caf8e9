from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lsa_lightning.objectives import AT, TRADES, Objective


def two_class(logits: Tensor) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        return torch.stack([1 - torch.sigmoid(logits.flatten()), torch.sigmoid(logits.flatten())], dim=1)
    return torch.softmax(logits, dim=1)


def hand_written_trades(clean: Tensor, adversarial: Tensor, beta: float) -> Tensor:
    p, q = two_class(clean), two_class(adversarial)
    return beta / len(p) * (p * (p.log() - q.log())).sum()


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2), (5, 7)], ids=str)
@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_trades_has_the_value_and_the_gradients_of_the_formula(shape: tuple[int, ...], beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, adversarial = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    term = TRADES(beta).term(clean, adversarial, torch.zeros(5, dtype=torch.long))
    expected = hand_written_trades(clean, adversarial, beta)
    torch.testing.assert_close(term, expected)
    for got, wanted in zip(
        torch.autograd.grad(term, [clean, adversarial]),
        torch.autograd.grad(expected, [clean, adversarial]),
        strict=True,
    ):
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(got, wanted)


def test_trades_gradient_of_the_clean_side_is_not_detached() -> None:
    clean = torch.tensor([[1.0, -1.0]], requires_grad=True)
    TRADES().term(clean, torch.tensor([[-1.0, 1.0]]), torch.tensor([0])).backward()
    assert clean.grad is not None
    assert float(clean.grad.abs().min()) > 0.1


def test_trades_term_is_0_for_equal_outputs_and_finite_for_confident_ones() -> None:
    confident = torch.tensor([[500.0, -500.0]], requires_grad=True)
    term = TRADES().term(confident, -confident.detach(), torch.tensor([0]))
    term.backward()
    assert term.isfinite()
    assert confident.grad is not None
    assert confident.grad.isfinite().all()
    assert TRADES().term(confident, confident, torch.tensor([0])).item() == 0.0


def test_beta_0_adds_nothing() -> None:
    assert float(TRADES(beta=0.0).term(torch.randn(3, 2), torch.randn(3, 2), torch.zeros(3))) == 0.0


def test_which_batch_and_outputs_an_objective_needs() -> None:
    assert (AT().steps_on_clean, AT().needs_both_outputs) == (False, False)
    assert (TRADES().steps_on_clean, TRADES().needs_both_outputs) == (True, True)


def test_at_adds_nothing() -> None:
    logits = torch.randn(3, 2)
    assert float(AT().term(logits, logits + 1, torch.zeros(3))) == 0.0


@pytest.mark.parametrize(("objective", "shown"), [(AT(), "AT()"), (TRADES(6.0), "TRADES(beta=6)")])
def test_repr(objective: Objective, shown: str) -> None:
    assert repr(objective) == shown


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_beta_must_be_finite_and_not_negative(beta: float) -> None:
    with pytest.raises(ValueError, match=f"TRADES: expected beta to be a finite number >= 0, got {beta}"):
        TRADES(beta)
