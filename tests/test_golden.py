"""AT-LR on moons gives the weights that it gave when they were stored; ``scripts/golden.py`` stores others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers.golden import digest, stored_weights, trained_weights


def test_the_weights_are_those_that_were_stored(tmp_path: Path) -> None:
    weights, expected = trained_weights(tmp_path), stored_weights()
    print(f"digest {digest(weights)}, stored {digest(expected)}")
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)  # another CPU may round differently


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["attack.alpha=0.08", "regularizer.gamma=0.11"])
def test_a_small_change_of_the_method_would_be_seen(changed: str, tmp_path: Path) -> None:
    weights, expected = trained_weights(tmp_path, changed), stored_weights()
    assert any(not torch.allclose(weights[name], expected[name], rtol=0, atol=1e-4) for name in expected)
