"""The page of ``lsa-demo``: one input, its adversarial partner, and how far each layer moves."""

from lsa_lightning.demo.inputs import Canvas, Plane
from lsa_lightning.demo.partner import Partner, adversarial_partner
from lsa_lightning.demo.subject import Subject

__all__ = ["Canvas", "Partner", "Plane", "Subject", "adversarial_partner"]
