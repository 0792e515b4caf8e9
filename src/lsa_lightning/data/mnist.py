"""MNIST and the data sets in its file format."""

from __future__ import annotations

from torchvision.datasets import MNIST

from lsa_lightning.data.base import ImageDataModule
from lsa_lightning.data.files import DataFile
from lsa_lightning.data.formats import check_idx_pair


class MNISTDataModule(ImageDataModule):
    """Handwritten digits, ``[1, 28, 28]``, 10 classes, not augmented; arguments of :class:`ImageDataModule`.

    FashionMNIST and KMNIST are ``dataset_cls=torchvision.datasets.FashionMNIST`` and ``KMNIST``.

    Example:
        >>> MNISTDataModule(root="somewhere", batch_size=64).image_shape
        (1, 28, 28)

    Source: LeCun et al. 1998, http://yann.lecun.com/exdb/mnist
    """

    default_dataset = MNIST
    default_shape = (1, 28, 28)

    def check_files(self, files: list[DataFile]) -> None:
        """Check headers, lengths, sizes and labels of the IDX files; those of other classes, their checksums."""
        super().check_files(files)
        idx = sorted(file.path for file in files if file.path.name.endswith("-ubyte"))
        for images, labels in zip(idx[::2], idx[1::2], strict=True):
            check_idx_pair(images, labels, self.image_shape[1:], self.num_classes)
