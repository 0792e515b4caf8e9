"""The perturbed images of torchattacks 3.5.1, stored by ``benchmarks/attacks_vs_torchattacks.py --fixture``.

Stored, because torchattacks pins requests to 2.25, which other development tools cannot live with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lsa_lightning.attacks import FFGSM, FGSM, PGD, TPGD, Attack

CASE: dict[str, Any] = torch.load(Path(__file__).with_name("torchattacks_3.5.1.pt"), weights_only=True)


def network() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(108, 4)
    ).double()
    net.load_state_dict(CASE["weights"])
    return net


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [("FGSM", FGSM, {}), ("FFGSM", FFGSM, {}), ("PGD", PGD, {}), ("PGDL2", PGD, {"norm": "L2"}), ("TPGD", TPGD, {})],
)
def test_images_equal_those_of_torchattacks(name: str, kind: type[Attack], own: dict[str, Any]) -> None:
    attack = kind(**CASE[name]["options"], **own)
    vars(attack)["start"] = lambda ball: CASE[name]["start"]
    perturbed = attack(network(), CASE["x"], CASE["y"])
    assert (perturbed - CASE["x"]).abs().max() > 0.05
    torch.testing.assert_close(perturbed, CASE[name]["perturbed"], atol=1e-6, rtol=0)
