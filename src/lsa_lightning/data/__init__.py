"""DataModules."""

from lsa_lightning.data.moon import MoonDataModule

__all__ = ["MoonDataModule"]
