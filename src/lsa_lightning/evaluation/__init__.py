"""Accuracy under attacks, exactly in the plane, and at most: with the state from which an interrupted run goes on."""

from lsa_lightning.evaluation.accuracy import correct
from lsa_lightning.evaluation.ceiling import Ceiling, CeilingBound
from lsa_lightning.evaluation.ensemble import EnsembleResult, evaluate_ensemble
from lsa_lightning.evaluation.plane import PlaneGrid
from lsa_lightning.evaluation.robustness import RobustnessEvaluation, evaluate_robustness
from lsa_lightning.evaluation.table import RobustnessTable

__all__ = [
    "Ceiling",
    "CeilingBound",
    "EnsembleResult",
    "PlaneGrid",
    "RobustnessEvaluation",
    "RobustnessTable",
    "correct",
    "evaluate_ensemble",
    "evaluate_robustness",
]
