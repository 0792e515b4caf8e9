"""Lightning callbacks: adversarial training, AT-LR, robust validation."""

from lsa_lightning.callbacks.adversarial_training import AdversarialTraining
from lsa_lightning.callbacks.atlr import ATLR
from lsa_lightning.callbacks.robust_validation import RobustValidation

__all__ = ["ATLR", "AdversarialTraining", "RobustValidation"]
