"""The noise-FGSM: its values, how far it goes, and that no evaluation takes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lsa_lightning.attacks import NFGSM, PGD, Ensemble, InputSpace
from lsa_lightning.evaluation import RobustnessEvaluation
from lsa_lightning.utils.random import Purpose, generator_of

X, Y = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def reference(net: nn.Module, eps: float, alpha: float, k: float) -> Tensor:
    """Algorithm 1 as its authors write it: in terms of the perturbation, clamped so that x + eta is an image."""
    eta = torch.empty_like(X).uniform_(-k * eps, k * eps, generator=generator_of(0, Purpose.ATTACK, 0))
    eta = torch.max(torch.min(eta, 1 - X), -X).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(X + eta), Y), eta)
    eta = eta.detach() + alpha * gradient.sign()
    return X + torch.max(torch.min(eta, 1 - X), -X)


@pytest.mark.parametrize(("eps", "alpha", "k"), [(0.1, 0.1, 2.0), (0.2, 0.05, 1.0), (0.1, 0.3, 0.0)])
def test_equals_the_algorithm_written_out(eps: float, alpha: float, k: float) -> None:
    net = network()
    torch.testing.assert_close(NFGSM(eps, alpha, k=k, seed=0)(net, X, Y), reference(net, eps, alpha, k))


def test_it_goes_beyond_eps_and_says_how_far() -> None:
    attack, x = NFGSM(0.1, seed=0, bounds=None), torch.zeros(500, 4, dtype=torch.float64)
    moved = (attack(network(), x, torch.zeros(500).long()) - x).abs().max()
    assert 0.28 < moved <= attack.reach == pytest.approx(0.3)
    assert [a.reach for a in (attack.with_eps(0.2), attack.scaled(0.5))] == pytest.approx([0.6, 0.15])
    assert InputSpace(0.5, 0.25)(attack).reach == attack.reach
    assert PGD(0.1).reach == 0.1


def test_evaluations_refuse_it() -> None:
    message = r"expected attacks\['n'\] to be an attack that stays within eps \(this one reaches 0.3: train with it\)"
    for attack in (NFGSM(0.1), InputSpace(0.5, 0.25)(NFGSM(0.1))):
        with pytest.raises(ValueError, match=message):
            RobustnessEvaluation({"n": attack}, [0.1])
    with pytest.raises(ValueError, match=message):
        Ensemble(0.1, attacks={"n": NFGSM(0.1)})


def test_k_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="NFGSM: expected k to be a finite number >= 0, got -1"):
        NFGSM(k=-1.0)
