from __future__ import annotations

import pytest
import torch
from torch import nn

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.demo import adversarial_partner
from lsa_lightning.demo.partner import ATTACKS
from lsa_lightning.measures import CosineDistance
from lsa_lightning.models import MLP

IMAGES = ThreatModel("Linf", 0.1)
PLANE = ThreatModel("L2", 0.3, None)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_every_attack_gives_a_partner_within_eps(net: nn.Module, attack: str, eps: float) -> None:
    x = torch.rand(1, 1, 4, 4)
    partner = adversarial_partner(net, IMAGES.with_eps(eps), attack, x)
    assert float((partner.x_adv - x).abs().max()) <= eps
    assert 0 <= float(partner.x_adv.min()) <= float(partner.x_adv.max()) <= 1
    assert (float(partner.report.mean.sum()) > 0) == (eps > 0)


def test_errors_are_those_of_the_two_representations(net: nn.Module) -> None:
    x = torch.rand(1, 1, 4, 4)
    partner = adversarial_partner(net, IMAGES, "FGSM", x)
    before, after = net[:3](x), net[:3](partner.x_adv)
    expected = (after - before).norm() / before.norm()
    torch.testing.assert_close(partner.report.mean[0], expected.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(partner.clean, net(x).softmax(dim=1)[0])
    torch.testing.assert_close(partner.adversarial, net(partner.x_adv).softmax(dim=1)[0])


def test_the_attack_leads_away_from_what_the_model_says(net: nn.Module) -> None:
    x = torch.rand(1, 1, 4, 4)
    partner = adversarial_partner(net, IMAGES, "PGD, 20 steps", x)
    said = partner.clean.argmax()
    assert partner.adversarial[said] < partner.clean[said]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_input_gives_the_same_partner(attack: str) -> None:
    net, x = MLP(), torch.tensor([[0.2, -0.1]])
    one, other = (adversarial_partner(net, PLANE, attack, x) for _ in range(2))
    assert torch.equal(one.x_adv, other.x_adv)
    assert one.clean.shape == (2,)


def test_another_measure() -> None:
    partner = adversarial_partner(MLP(), PLANE, "FGSM", torch.tensor([[0.2, -0.1]]), CosineDistance())
    assert partner.report.measure == "cosine_distance"
