"""Models, batches and outputs that no evaluation can be made of are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lsa_lightning import LayerSustainabilityAnalysis, RobustnessEvaluation
from lsa_lightning.attacks import FGSM, Ensemble
from lsa_lightning.evaluation import evaluate_ensemble
from lsa_lightning.masking import MaskingChecks

X, Y = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
FGSMS = {"fgsm": FGSM(0.1)}

USERS: dict[str, Callable[[Any, Any], Any]] = {
    "evaluation": lambda model, batch: RobustnessEvaluation(FGSMS, [0.1], progress=False).run(model, [batch]),
    "ensemble": lambda model, batch: evaluate_ensemble(model, [batch], Ensemble(0.1, attacks=FGSMS)),
    "masking": lambda model, batch: MaskingChecks(0.1, n_samples=4, steps=1, n_queries=1).run(model, [batch]),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (None, (X, Y), "expected model to be a Module, got None"),
        ("net", (X, Y), "expected model to be a Module, got 'net'"),
        (nn.Identity(), (X.long(), Y), r"expected floating inputs \[N, \.\.\.\] .*, got torch\.int64"),
        (nn.Identity(), (X, Y[:2]), r"got torch\.float32 \(4, 3\) and \(2,\)"),
        (nn.Identity(), (X[0, 0], Y), r"got torch\.float32 \(\)"),
    ],
)
def test_no_model_and_no_batch(user: str, model: Any, batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        USERS[user](model, batch)


class Rounding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.round().long()


@pytest.mark.parametrize("user", USERS)
def test_integer_logits(user: str) -> None:
    with pytest.raises(ValueError, match=r"expected floating logits, got torch.int64"):
        USERS[user](Rounding(), (X, Y))


def test_what_batch_fn_returns() -> None:
    evaluation = RobustnessEvaluation(FGSMS, [0.1], batch_fn=len, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected batch_fn to return the tensors \(x, y\), got 2"):
        evaluation.run(nn.Identity(), [(X, Y)])
    analysis = LayerSustainabilityAnalysis(nn.Identity(), batch_fn=len)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected batch_fn to return the tensors \(x, y\), got 2"):
        analysis.run([(X, Y)], FGSM(0.1))
