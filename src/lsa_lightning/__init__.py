"""Layer Sustainability Analysis (LSA) and layer-wise regularized adversarial training (AT-LR), arXiv 2202.02626."""

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.callbacks import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.data import CIFAR10DataModule, MNISTDataModule, MoonDataModule
from lsa_lightning.evaluation import RobustnessEvaluation
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.profile import LayerProfile
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.measures import RelativeError
from lsa_lightning.models import RobustClassifier
from lsa_lightning.regularizers import LayerwiseRegularizer

__version__ = "0.1.0"

__all__ = [
    "ATLR",
    "AdversarialTraining",
    "CIFAR10DataModule",
    "LayerProfile",
    "LayerSustainabilityAnalysis",
    "LayerwiseRegularizer",
    "MNISTDataModule",
    "MoonDataModule",
    "RelativeError",
    "RobustClassifier",
    "RobustValidation",
    "RobustnessEvaluation",
    "SustainabilityReport",
    "ThreatModel",
    "__version__",
]
