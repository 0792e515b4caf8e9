"""What is checked beside the first training batch, before the first step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lsa_lightning import ATLR, MoonDataModule, RobustClassifier
from lsa_lightning.attacks import FGSM
from lsa_lightning.jobs.first_batch import FirstBatchChecks
from lsa_lightning.models import CNN, MLP
from lsa_lightning.runs.stages import AnalysisStage

ATTACK = FGSM(0.1, bounds=None)


def fit(
    analysis: AnalysisStage | None, *callbacks: pl.Callback, backbone: nn.Module | None = None, sanity_steps: int = 2
) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        callbacks=[FirstBatchChecks(analysis), *callbacks],
        max_epochs=1,
        accelerator="cpu",
        barebones=False,
        enable_checkpointing=False,
        num_sanity_val_steps=sanity_steps,
        **quiet,
    )
    data = MoonDataModule(train_size=32, val_size=32, batch_size=16)
    try:
        trainer.fit(RobustClassifier(backbone or MLP(hidden=[4, 4])), data)
    finally:
        fit.steps = trainer.global_step  # type: ignore[attr-defined]
    return trainer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 99}, r"expected analysis\.top_k to be at most 2, the number of layers, got 99"),
        ({"layers": ["backbone.nowhere"]}, r"analysis\.layers: expected names of submodules, .*nowhere"),
    ],
)
def test_an_analysis_that_cannot_be_is_refused_before_the_first_step(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(AnalysisStage({"fgsm": ATTACK}, mvl_from="fgsm", **options))
    assert fit.steps == 0  # type: ignore[attr-defined]


def test_a_list_that_is_to_come_after_a_warm_up_is_refused_before_the_first_step() -> None:
    with pytest.raises(MisconfigurationException, match=r"expected callbacks\.atlr\.top_k to be at most 2, .* got 3"):
        fit(None, ATLR(ATTACK, top_k=3, warmup_epochs=1, analysis_every_n_epochs=5))
    assert fit.steps == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("backbone", [CNN(), MLP(in_features=3), nn.Embedding(2, 2)])
@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_model_that_cannot_take_the_data_is_named_with_their_shape(backbone: nn.Module, sanity_steps: int) -> None:
    message = rf"x of shape \[(16|32), 2\], got {type(backbone).__name__}: .*; without model=... the data choose one"
    with pytest.raises(MisconfigurationException, match=message):
        fit(None, backbone=backbone, sanity_steps=sanity_steps)
    assert fit.steps == 0  # type: ignore[attr-defined]


def test_what_can_be_is_trained() -> None:
    analysis = AnalysisStage({"fgsm": ATTACK}, mvl_from="fgsm", top_k=2)
    assert fit(analysis, ATLR(ATTACK, top_k=2, warmup_epochs=1)).global_step == 2
