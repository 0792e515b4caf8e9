"""How scripts/foreign_projects.py judges a project."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripts.foreign_projects import PROJECTS, Classifier, Project, outcome
from torch import Tensor, nn


class Miscounting(Classifier):
    """Logs another accuracy than its own."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("own", 2.0)


class WithoutGradient(Classifier):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return self.model(x)


class Broken(Classifier):
    def forward(self, x: Tensor) -> Any:
        msg = "planted"
        raise KeyError(msg)


def missing() -> Any:
    import a_package_that_nobody_has  # type: ignore[import-not-found]

    return a_package_that_nobody_has


def net() -> nn.Module:
    layers = [nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6)]
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.slow
def test_a_model_of_timm_is_trained() -> None:
    found = outcome(PROJECTS["timm resnet10t"])
    assert found.verdict == "trained", found.text
    assert "timm" in found.versions


@pytest.mark.parametrize(
    ("make", "verdict", "words"),
    [
        (lambda: Classifier(net()), "trained", "0 at eps 0"),
        (lambda: Miscounting(net()), "SILENTLY WRONG", "own 2.0"),
        (lambda: WithoutGradient(net()), "named error", "torch.no_grad"),
        (lambda: Broken(net()), "FOREIGN ERROR", "planted"),
        (missing, "not installed", "a_package_that_nobody_has"),
    ],
)
def test_verdicts(make: Any, verdict: str, words: str) -> None:
    found = outcome(Project("torch", make))
    assert found.verdict == verdict, found.text
    assert words in found.text
    assert found.is_wrong == (verdict in {"SILENTLY WRONG", "FOREIGN ERROR"})
