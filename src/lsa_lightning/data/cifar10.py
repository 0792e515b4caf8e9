"""CIFAR-10 and data sets like it."""

from __future__ import annotations

import math

from torchvision.datasets import CIFAR10

from lsa_lightning.data.augmentation import CropFlip
from lsa_lightning.data.base import ImageDataModule
from lsa_lightning.data.files import DataFile, has_checksums
from lsa_lightning.data.formats import check_cifar_batch


class CIFAR10DataModule(ImageDataModule):
    """Small photographs, ``[3, 32, 32]``, 10 classes; training images are padded by 4, cropped and mirrored.

    CIFAR-100 is ``dataset_cls=torchvision.datasets.CIFAR100`` with ``num_classes=100``; SVHN is
    ``dataset_cls=torchvision.datasets.SVHN``, better with ``augment=CropFlip(flip=False)``, since mirrored digits are
    others. Arguments of :class:`ImageDataModule`.

    Example:
        >>> CIFAR10DataModule(root="somewhere").augmentation
        CropFlip(padding=4, flip=True)

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
    """

    default_dataset = CIFAR10
    default_shape = (3, 32, 32)
    default_augmentation = CropFlip()

    def check_files(self, files: list[DataFile]) -> None:
        """Compare the checksums; for a class that waives them, look into its batches."""
        super().check_files(files)
        if has_checksums(self.dataset_cls) or not hasattr(self.dataset_cls, "train_list"):
            return
        for file in files[:-1]:  # the last one holds the names of the classes
            check_cifar_batch(file.path, math.prod(self.image_shape), self.num_classes)
