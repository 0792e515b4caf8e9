"""Attacks, noises and corruptions: ``x_adv = attack(model, x, y)``."""

from lsa_lightning.attacks.apgd import APGD
from lsa_lightning.attacks.autoattack import AutoAttack
from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, GradientAttack, Model
from lsa_lightning.attacks.corruptions import Blur, Brightness, Contrast
from lsa_lightning.attacks.ensemble import Ensemble
from lsa_lightning.attacks.external import ExternalAttack
from lsa_lightning.attacks.fab import FAB
from lsa_lightning.attacks.fgsm import FFGSM, FGSM
from lsa_lightning.attacks.input_space import InputSpace
from lsa_lightning.attacks.layer_attack import AdaptiveAttack, LayerAttack
from lsa_lightning.attacks.layer_loss import LayerLoss
from lsa_lightning.attacks.nfgsm import NFGSM
from lsa_lightning.attacks.noise import GaussianNoise, PepperNoise, SaltNoise, SpeckleNoise
from lsa_lightning.attacks.pgd import PGD, TPGD
from lsa_lightning.attacks.square import Square
from lsa_lightning.attacks.threat import ThreatModel

__all__ = [
    "APGD",
    "FAB",
    "FFGSM",
    "FGSM",
    "NFGSM",
    "PGD",
    "TPGD",
    "AdaptiveAttack",
    "Attack",
    "AutoAttack",
    "Ball",
    "Blur",
    "Bounds",
    "Brightness",
    "Contrast",
    "Ensemble",
    "ExternalAttack",
    "GaussianNoise",
    "GradientAttack",
    "InputSpace",
    "LayerAttack",
    "LayerLoss",
    "Model",
    "PepperNoise",
    "SaltNoise",
    "SpeckleNoise",
    "Square",
    "ThreatModel",
]
