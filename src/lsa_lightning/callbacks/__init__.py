"""Lightning callbacks: adversarial training, AT-LR, what goes with adversarial training, validation, logging."""

from lsa_lightning.callbacks.adversarial_training import AdversarialTraining
from lsa_lightning.callbacks.alarm import CollapseAlarm, LossFell, Overshot, SpreadLost
from lsa_lightning.callbacks.atlr import ATLR
from lsa_lightning.callbacks.learning_rate import LearningRate
from lsa_lightning.callbacks.model_table import ModelTable
from lsa_lightning.callbacks.overfitting_stop import CatastrophicOverfittingStop
from lsa_lightning.callbacks.progress import TrainingProgress
from lsa_lightning.callbacks.report_logger import ReportLogger
from lsa_lightning.callbacks.robust_validation import RobustValidation
from lsa_lightning.callbacks.weight_perturbation import AdversarialWeightPerturbation
from lsa_lightning.steps.target import Target

__all__ = [
    "ATLR",
    "AdversarialTraining",
    "AdversarialWeightPerturbation",
    "CatastrophicOverfittingStop",
    "CollapseAlarm",
    "LearningRate",
    "LossFell",
    "ModelTable",
    "Overshot",
    "ReportLogger",
    "RobustValidation",
    "SpreadLost",
    "Target",
    "TrainingProgress",
]
