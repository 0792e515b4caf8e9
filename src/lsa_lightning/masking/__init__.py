"""Checks for masked gradients, and when they raise their flags."""

from lsa_lightning.masking.checks import MaskingChecks
from lsa_lightning.masking.flags import MaskingFlag

__all__ = ["MaskingChecks", "MaskingFlag"]
