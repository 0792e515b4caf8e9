"""The stages after training, on models of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.progress import every_progress
from torch import nn

from lsa_lightning import LayerSustainabilityAnalysis, RobustnessEvaluation
from lsa_lightning.attacks import FGSM, PGD, GaussianNoise
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.measures import CosineDistance
from lsa_lightning.models import MLP
from lsa_lightning.runs.stages import AnalysisStage, EvaluationStage

ATTACKS = {"pgd": PGD(0.3, steps=2, bounds=None, seed=1), "fgsm": FGSM(0.3, bounds=None)}


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP(hidden=(8, 8))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 2, generator=generator), torch.arange(6) % 2) for _ in range(2)]


def test_the_analysis_is_that_of_each_attack() -> None:
    measure = CosineDistance()
    analysis = AnalysisStage(ATTACKS, mvl_from="fgsm", measure=measure, limit_batches=1).run(model(), batches())
    expected = LayerSustainabilityAnalysis(model(), measure=measure).run(batches()[:1], ATTACKS["fgsm"])
    assert list(analysis.reports) == ["pgd", "fgsm"]
    assert analysis.report.to_dict() == expected.to_dict()
    assert analysis.mvl == expected.most_vulnerable(0.0)
    assert analysis.reports["pgd"].attack.startswith("PGD")


@pytest.mark.parametrize("mvl_from", ["pgd", "fgsm"])
def test_the_mvl_is_that_under_the_attack_named(mvl_from: str) -> None:
    stage = AnalysisStage(ATTACKS, mvl_from=mvl_from, layers=["fc1", "act2"], top_k=1)
    analysis = stage.run(model(), batches())
    assert analysis.report is analysis.reports[mvl_from]
    assert analysis.mvl == analysis.report.most_vulnerable(top_k=1)
    assert analysis.report.layers == ["fc1", "act2"]


def test_an_mvl_under_no_attack_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected mvl_from to be one of \['pgd', 'fgsm'\], got 'salt'"):
        AnalysisStage(ATTACKS, mvl_from="salt")


def test_a_drawing_of_no_attack_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected draw to be one of \['pgd', 'fgsm'\] or None, got"):
        EvaluationStage(ATTACKS, [0.1], draw="salt")


@pytest.mark.parametrize("attacks", [{}, FGSM(0.1), {"fgsm": FGSM}, None])
def test_what_maps_no_names_to_attacks_is_refused(attacks: Any) -> None:
    with pytest.raises(ValueError, match=r"AnalysisStage: expected attacks.* to be .*, got "):
        AnalysisStage(attacks, mvl_from="fgsm")


def test_the_evaluation_is_that_of_the_class() -> None:
    stage = EvaluationStage(ATTACKS, [0.1, 0.2], training_eps=0.3, seed=4, limit_batches=1)
    evaluation = RobustnessEvaluation(ATTACKS, [0.1, 0.2], training_eps=0.3, seed=4, limit_batches=1)
    assert stage.run(model(), batches()) == evaluation.run(model(), batches())


def test_the_names_of_metrics_are_those_of_columns_and_scores() -> None:
    stage = EvaluationStage({"noise": GaussianNoise(0.1)}, [0.2, 0.1], training_eps=0.25)
    assert stage.metrics == [
        *("accuracy/clean", "accuracy/noise/0.1", "accuracy/noise/0.2", "accuracy/noise/0.25", "rg_score/noise")
    ]


def test_checks_run_only_where_there_are_some() -> None:
    checks = MaskingChecks(0.3, bounds=None, samples=4, steps=1, queries=2)
    assert EvaluationStage(ATTACKS, [0.1]).check(model(), batches()) == {}
    with_checks = EvaluationStage(ATTACKS, [0.1], masking=checks)
    assert with_checks.check(model(), batches()) == checks.run(model(), batches())


def test_checks_look_at_the_radii_that_are_evaluated_beyond_their_own() -> None:
    checks = MaskingChecks(0.3)
    stage = EvaluationStage(ATTACKS, [0.4, 0.1], training_eps=0.5, masking=checks)
    assert stage.masking is not None
    assert (stage.masking.beyond, checks.beyond) == ([0.4, 0.5], [])


def test_the_attack_that_is_drawn_is_the_one_named() -> None:
    assert EvaluationStage(ATTACKS, [0.1], draw="fgsm").drawn == "fgsm"
    assert EvaluationStage(ATTACKS, [0.1]).drawn is None


def test_the_analysis_is_one_progress_over_all_attacks() -> None:
    with every_progress() as shown:
        AnalysisStage(ATTACKS, mvl_from="pgd").run(model(), batches())
    assert [(each.label, each.total, each.done) for each in shown] == [("Analysing", 2 * (6 + 3), 2 * (6 + 3))]


def test_stages_are_silent_if_they_are_told_to(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    AnalysisStage(ATTACKS, mvl_from="pgd", progress=False).run(model(), batches())
    checks = MaskingChecks(0.3, bounds=None, steps=1, n_queries=1, progress=False)
    stage = EvaluationStage(ATTACKS, [0.1], progress=False, masking=checks)
    stage.run(model(), batches())
    stage.check(model(), batches())
    assert caplog.messages == []
