"""Our attacks beside those of torchattacks from the same start, in float64, where no rounding decides a sign."""

from __future__ import annotations

import copy

import pytest
import torch
from benchmarks.attacks_vs_torchattacks import both, pairs
from tests.helpers.digits import held_out, trained


@pytest.mark.parametrize("attack", pairs())
@pytest.mark.parametrize("name", ["cnn, normal", "cnn, FGSM", "cnn, PGD"])
def test_images_equal_those_of_torchattacks(name: str, attack: str) -> None:
    x, y = held_out(40)
    ours, theirs = both(attack, copy.deepcopy(trained(name)).double(), x.double(), y)
    assert (ours - x).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
