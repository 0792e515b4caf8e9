"""Layer Sustainability Analysis (LSA) and layer-wise regularized adversarial training (AT-LR), arXiv 2202.02626."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.callbacks import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.evaluation import RobustnessEvaluation
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.profile import LayerProfile
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.measures import RelativeError
from lsa_lightning.models import RobustClassifier
from lsa_lightning.regularizers import LayerwiseRegularizer

if TYPE_CHECKING:
    from lsa_lightning.data import CIFAR10DataModule, MNISTDataModule, MoonDataModule

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


def __getattr__(name: str) -> Any:
    # The data sets need torchvision, which users with data of their own do not.
    if name == "data" or (name.endswith("DataModule") and name in __all__):
        data = import_module("lsa_lightning.data")
        return data if name == "data" else getattr(data, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
