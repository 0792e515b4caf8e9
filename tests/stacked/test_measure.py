"""Stacked models are measured as single ones are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsa_lightning.attacks.balls import Bounds
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.models import MLP
from lsa_lightning.stacked.measure import check_masking
from lsa_lightning.stacked.network import stack

MODELS = 3


def scaled(model: nn.Module, factor: float) -> nn.Module:
    """Its logits, so many times as large."""
    for parameter in list(model.parameters())[-2:]:
        parameter.data.mul_(factor)
    return model


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_masking_flags_are_those_of_each(bounds: Bounds) -> None:
    torch.manual_seed(0)
    models = [scaled(MLP(), 1e4**index) for index in range(MODELS)]
    batches = [(torch.rand(MODELS, 20, 2), torch.randint(2, (MODELS, 20))) for _ in range(2)]
    checks = MaskingChecks(0.1, bounds=bounds, n_samples=30, steps=3, n_queries=5, progress=False)
    together = [list(zip(x, y, strict=True)) for x, y in batches]
    found = check_masking(checks, stack(models), MODELS, together)
    for number, model in enumerate(models):
        assert found[number] == checks.run(model, [(x[number], y[number]) for x, y in batches])
    assert found[0] != found[-1]
