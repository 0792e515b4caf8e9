"""A stronger attack never looks weaker: five networks trained on real 8 x 8 digits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, Ensemble
from lsa_lightning.evaluation import correct
from lsa_lightning.functional import classification_loss

EPS = 0.15
TRAINED: dict[str, tuple[str, Attack | None]] = {
    "cnn, normal": ("cnn", None),
    "cnn, FGSM": ("cnn", FGSM(EPS)),
    "cnn, PGD": ("cnn", PGD(EPS, steps=4, seed=0)),
    "mlp, normal": ("mlp", None),
    "mlp, PGD": ("mlp", PGD(EPS, steps=4, seed=0)),
}
ROWS: dict[str, list[Attack | None]] = {
    "FGSM, eps": [None, *(FGSM(eps) for eps in (0.05, 0.1, 0.2, 0.3))],
    "PGD, eps": [None, *(PGD(eps, best="success", seed=0) for eps in (0.05, 0.1, 0.2, 0.3))],
    "APGD, eps": [None, *(APGD(eps, 10, best="success", seed=0) for eps in (0.05, 0.1, 0.2, 0.3))],
    "PGD, steps": [PGD(EPS, EPS / 4, steps, best="success", seed=0) for steps in (10, 20, 50)],
    "APGD, steps": [APGD(EPS, steps, best="success", seed=0) for steps in (10, 20, 50)],
    "attacks": [
        FGSM(EPS),
        PGD(EPS, EPS / 4, best="success", seed=0),
        APGD(EPS, 50, best="success", seed=0),
        Ensemble(EPS, seed=0, steps=50, n_queries=100),
    ],
}


def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 of scikit-learn's digits, pixels in [0, 1]."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def network(kind: str) -> nn.Sequential:
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(144, 10),
    )


@cache
def trained(name: str) -> nn.Sequential:
    """A network of :data:`TRAINED`; no other test sees its random numbers."""
    kind, attack = TRAINED[name]
    x, y = (part[:1400] for part in digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(kind)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for rows in batches(len(x), epochs=8):
            seen = x[rows] if attack is None else attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            classification_loss(model(seen), y[rows]).backward()
            optimizer.step()
    return model.eval()


def batches(samples: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(samples).split(100)


def accuracies(name: str, attacks: list[Attack | None]) -> list[float]:
    """In percent, on the digits that the network was not trained on."""
    model, (x, y) = trained(name), (part[1400:] for part in digits())
    shots = [x if attack is None else attack(model, x, y) for attack in attacks]
    return [100 * float(correct(model, shot, y).float().mean()) for shot in shots]


@pytest.mark.parametrize("name", TRAINED)
def test_the_networks_have_learned(name: str) -> None:
    assert accuracies(name, [None])[0] > 80


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", TRAINED)
def test_accuracy_falls_or_stays(name: str, row: str) -> None:
    found = accuracies(name, ROWS[row])
    assert all(after <= before for before, after in pairwise(found)), found


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(TRAINED)), st.floats(0.02, 0.5), st.floats(0.1, 1.0), st.integers(0, 2**31))
def test_with_a_fixed_step_size_more_steps_fool_all_that_fewer_do(
    name: str, eps: float, alpha: float, seed: int
) -> None:
    model, (x, y) = trained(name), (part[1400:1460] for part in digits())
    few, more = (
        correct(model, PGD(eps, alpha * eps, steps, best="success", seed=seed)(model, x, y), y) for steps in (3, 6)
    )
    assert not (more & ~few).any()
