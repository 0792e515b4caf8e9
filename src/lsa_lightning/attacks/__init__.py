"""Attacks and noises: ``x_adv = attack(model, x, y)``."""

from lsa_lightning.attacks.base import Attack, GradientAttack
from lsa_lightning.attacks.fgsm import FFGSM, FGSM
from lsa_lightning.attacks.input_space import InputSpace
from lsa_lightning.attacks.noise import GaussianNoise, PepperNoise, SaltNoise, SpeckleNoise
from lsa_lightning.attacks.pgd import PGD, TPGD

__all__ = [
    "FFGSM",
    "FGSM",
    "PGD",
    "TPGD",
    "Attack",
    "GaussianNoise",
    "GradientAttack",
    "InputSpace",
    "PepperNoise",
    "SaltNoise",
    "SpeckleNoise",
]
