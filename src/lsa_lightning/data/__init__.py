"""DataModules."""

from lsa_lightning.data.augmentation import Augmentation, CropFlip
from lsa_lightning.data.base import ImageDataModule
from lsa_lightning.data.cifar10 import CIFAR10DataModule
from lsa_lightning.data.folder import ImageFolderDataModule
from lsa_lightning.data.mnist import MNISTDataModule
from lsa_lightning.data.moon import MoonDataModule

__all__ = [
    "Augmentation",
    "CIFAR10DataModule",
    "CropFlip",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "MoonDataModule",
]
