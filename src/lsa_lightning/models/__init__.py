"""The LightningModule and its backbones."""

from lsa_lightning.models.classifier import RobustClassifier
from lsa_lightning.models.mlp import MLP
from lsa_lightning.models.normalize import Normalize

__all__ = ["MLP", "Normalize", "RobustClassifier"]
