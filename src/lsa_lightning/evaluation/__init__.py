"""Accuracy under attacks: attacks times radii, ensembles, and the state from which an interrupted run goes on."""

from lsa_lightning.evaluation.accuracy import correct
from lsa_lightning.evaluation.ensemble import EnsembleResult, evaluate_ensemble
from lsa_lightning.evaluation.robustness import RobustnessEvaluation, evaluate_robustness
from lsa_lightning.evaluation.table import RobustnessTable

__all__ = [
    "EnsembleResult",
    "RobustnessEvaluation",
    "RobustnessTable",
    "correct",
    "evaluate_ensemble",
    "evaluate_robustness",
]
