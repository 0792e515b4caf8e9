"""Five small networks, trained in different ways on the real 8 x 8 digits that come with scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD, Attack
from lsa_lightning.functional import classification_loss

EPS = 0.15
TRAINED: dict[str, tuple[str, Attack | None]] = {
    "cnn, normal": ("cnn", None),
    "cnn, FGSM": ("cnn", FGSM(EPS)),
    "cnn, PGD": ("cnn", PGD(EPS, steps=4, seed=0)),
    "mlp, normal": ("mlp", None),
    "mlp, PGD": ("mlp", PGD(EPS, steps=4, seed=0)),
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


def confident(network: nn.Sequential, factor: float) -> nn.Sequential:
    """A copy with ``factor`` times the logits."""
    network = copy.deepcopy(network)
    last = network[-1]
    with torch.no_grad():
        last.weight *= factor
        last.bias *= factor
    return network


def held_out(samples: int | None = None) -> tuple[Tensor, Tensor]:
    """The first of the 397 digits that no network was trained on."""
    x, y = digits()
    return x[1400:][:samples], y[1400:][:samples]


def batches(samples: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(samples).split(100)
