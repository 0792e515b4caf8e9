from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.helpers.modules import ForeignModule, loader, trainer
from torch import Tensor

from lsa_lightning import AdversarialTraining
from lsa_lightning.attacks import PGD
from lsa_lightning.objectives import MART


def two_class(logits: Tensor) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        return torch.stack([torch.sigmoid(-logits.flatten()), torch.sigmoid(logits.flatten())], dim=1)
    return logits.softmax(1)


def whole_loss(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float) -> Tensor:
    """BCE plus the weighted divergence, written out with probabilities."""
    p, q = two_class(clean), two_class(adversarial)
    rows = torch.arange(len(y))
    rival = q.masked_fill(F.one_hot(y, q.shape[1]).bool(), 0).amax(1)
    bce = -q[rows, y].log() - (1 - rival).log()
    divergence = (p * (p.log() - q.log())).sum(1)
    return (bce + beta * divergence * (1 - p[rows, y])).mean()


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2), (6, 7)], ids=str)
@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_cross_entropy_plus_the_term_has_the_value_and_gradients_of_the_formula(
    shape: tuple[int, ...], beta: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    y = torch.randint(2, (6,), generator=generator)
    own_loss = -two_class(pair[1])[torch.arange(6), y].log().mean()
    got, expected = own_loss + MART(beta).term(*pair, y), whole_loss(*pair, y, beta)
    torch.testing.assert_close(got, expected)
    gradients = torch.autograd.grad(got, pair, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, pair, allow_unused=True, materialize_grads=True)
    )
    assert (float(gradients[0].abs().max()) > 1e-3) == (beta > 0)


def test_confident_outputs_stay_finite() -> None:
    confident = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    for y in (0, 1):
        term = MART().term(-confident, confident, torch.tensor([y]))
        (gradient,) = torch.autograd.grad(term, confident)
        assert term.isfinite()
        assert gradient.isfinite().all()


def test_training_equals_the_hand_written_loop() -> None:
    torch.manual_seed(0)
    module, expected = ForeignModule(), ForeignModule()
    expected.load_state_dict(module.state_dict())
    attack = PGD(eps=0.1, steps=3, seed=0)
    trainer([AdversarialTraining(attack, MART(beta=5.0))]).fit(module, loader())
    optimizer, attack = expected.configure_optimizers(), PGD(eps=0.1, steps=3, seed=0)
    for x, y in loader():
        x_adv = attack(expected.eval(), x, y)
        expected.train()
        optimizer.zero_grad()
        adversarial = expected(x_adv)
        whole_loss(expected(x), adversarial, y, 5.0).backward()
        optimizer.step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=1e-6)


def test_float_labels_of_a_binary_model_work() -> None:
    torch.testing.assert_close(
        MART().term(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0.0, 1.0])),
        MART().term(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0, 1])),
    )


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_bad_beta_is_named(beta: float) -> None:
    with pytest.raises(ValueError, match=f"MART: expected beta to be a finite number >= 0, got {beta}"):
        MART(beta)


def test_its_name_tells_beta() -> None:
    assert repr(MART()) == "MART(beta=6)"
