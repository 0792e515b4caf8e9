"""The LightningModule and its backbones."""

from lsa_lightning.models.classifier import RobustClassifier
from lsa_lightning.models.cnn import CNN
from lsa_lightning.models.mlp import MLP
from lsa_lightning.models.normalize import Normalize
from lsa_lightning.models.preact_resnet import PreActResNet18
from lsa_lightning.models.schedules import PerStep
from lsa_lightning.models.vgg import VGG19
from lsa_lightning.models.wide_resnet import WideResNet

__all__ = ["CNN", "MLP", "VGG19", "Normalize", "PerStep", "PreActResNet18", "RobustClassifier", "WideResNet"]
