"""Images of your own: a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import center_crop, resize

from lsa_lightning.data.augmentation import Augmentation, CropFlip
from lsa_lightning.data.base import ImageDataModule, Transform
from lsa_lightning.utils.checks import number, refuse
from lsa_lightning.utils.random import Purpose, generator_of

_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What the folders of the parts may be called, in whatever case."""

_MODES = {1: "L", 3: "RGB"}
"""Pillow's names of images, by their channels."""


class ImageFolderDataModule(ImageDataModule):
    """Images in folders that are named by their class, as :class:`torchvision.datasets.ImageFolder` reads them.

    Under ``root`` lie either the folders of the classes, or ``train`` with these folders in it, and, if you have them,
    ``val`` and ``test`` with the same ones (also ``Training``, ``valid``, ``validation``, ``dev``, ``testing``, in any
    case). What is not there is held out, the same share of each class: the test images are the same for every seed, the
    validation images depend on it. An image of another size is resized by its shorter side and cropped at its center;
    one of 16 bits is brought to 8; transparency is left out. All images are kept in memory, as bytes: 80,000 of 3 x 64
    x 64 pixels take a GB.

    Args:
        root: the folder.
        image_shape: (channels, height, width) that images are brought to; 1 channel is grey, 3 are colours.
        num_classes: number of classes that the folder must hold; None: as many as it does.
        val_share: share in (0, 1) of the training images that is held out where there is no folder ``val``; of a class
            of two or more at least one.
        test_share: share in (0, 1) of all images that is held out where there is no folder ``test``; likewise.
        train_size: number of training images to train on; None: all. See :class:`ImageDataModule`.
        batch_size: images per batch and process, >= 1; see there, as for the arguments that follow.
        num_workers: worker processes per loader.
        pin_memory: copy batches to pinned memory.
        persistent_workers: keep workers between epochs.
        augment: True: pad by an eighth of the height, crop and mirror; False: nothing; or one's own.
        cache: keep the images on the trainer's device.
        seed: of order, augmentation and held-out validation images.
        train_transform: replaces conversion and augmentation of training images.
        eval_transform: replaces conversion of validation and test images.

    Raises:
        ValueError: if an argument is outside its range; in ``setup``, if ``root`` holds no images, a file is none or
            has pixels of more than 16 bits or floating ones, or the classes are not the expected ones.

    Example:
        >>> data = ImageFolderDataModule("pictures", image_shape=(3, 64, 64), batch_size=16)
        >>> data.augmentation
        CropFlip(padding=8, flip=True)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        image_shape: Sequence[int] = (3, 64, 64),
        num_classes: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        train_size: int | None = None,
        batch_size: int = 128,
        num_workers: int = 2,
        pin_memory: bool | None = None,
        persistent_workers: bool | None = None,
        augment: bool | Augmentation = True,
        cache: bool = False,
        seed: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        self.shares = {"val": number(self, "val_share", val_share, above=0, below=1)}
        self.shares["test"] = number(self, "test_share", test_share, above=0, below=1)
        super().__init__(
            root,
            train_size=train_size,
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            augment=augment,
            cache=cache,
            seed=seed,
            download=False,
            dataset_cls=ImageFolder,
            image_shape=image_shape,
            num_classes=2 if num_classes is None else num_classes,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        if self.image_shape[0] not in _MODES:
            refuse(self, "image_shape", "of 1 or 3 channels", image_shape)
        if augment is True:
            self.augmentation = CropFlip(padding=self.image_shape[1] // 8)
        self._expected = num_classes

    def make_dataset(self, root: Path, train: bool, download: bool) -> FolderImages:
        """The training and validation images, or the test images."""
        classes, parts = class_folders(root, self._expected), _parts(root)
        files = images_in(parts.pop("train", root))
        self.num_classes = len(classes)
        held_out = {part: images_in(folder) for part, folder in parts.items()}
        for part, others in held_out.items():
            _check_same_classes(parts[part], others, classes)
        rest = files.samples
        if "test" not in held_out:
            test, rest = _parted(rest, self.shares["test"], seed=0)
        else:
            test = held_out["test"].samples
        if not train:
            return FolderImages(test, self.image_shape)
        if "val" in held_out:
            val, rest = held_out["val"].samples, list(rest)
        else:
            val, rest = _parted(rest, self.shares["val"], self.seed)
        self.val_size = len(val)
        return FolderImages([*val, *rest], self.image_shape)

    def _shuffled_rows(self) -> Tensor:
        """The validation images come first in the data set."""
        return torch.arange(len(self._datasets[True]))


class FolderImages:
    """Images by their files, brought to one size.

    Args:
        samples: files, each with its class.
        shape: (channels, height, width).
    """

    def __init__(self, samples: Sequence[tuple[str, int]], shape: tuple[int, int, int]) -> None:
        self.samples = samples
        self.shape = shape

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        channels, height, width = self.shape
        image: Any = _opened(path).convert("RGB").convert(_MODES[channels])
        if image.size != (width, height):
            scale = max(height / image.height, width / image.width)
            larger = [max(height, round(image.height * scale)), max(width, round(image.width * scale))]
            image = center_crop(resize(image, larger), [height, width])
        return image, label


def class_folders(root: str | Path, expected: int | None = None) -> list[str]:
    """The classes whose folders lie in ``root`` or in its ``train``.

    Raises:
        ValueError: if there are fewer than two, or others than expected.
    """
    folder = Path(root).expanduser()
    folder = _parts(folder).get("train", folder)
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 2 or expected not in (None, len(classes)):
        number_of = "at least two classes" if expected is None else f"{expected} classes"
        found = (
            ("nothing" if not folder.exists() else "a file") if not folder.is_dir() else f"{len(classes)}: {classes}"
        )
        msg = (
            f"expected data.root to hold a folder for each of {number_of}, as FOLDER/cat/1.png or "
            f"FOLDER/train/cat/1.png, got {found} in {folder}"
        )
        raise ValueError(msg)
    return classes


def images_in(folder: Path) -> ImageFolder:
    """The images in the folders of the classes.

    Raises:
        ValueError: if one of them holds none.
    """
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        classes = sorted(each for each in folder.iterdir() if each.is_dir())
        empty = [each.name for each in classes if not any(map(_is_image, each.rglob("*")))]
        msg = f"expected images in each class of {folder} ({', '.join(IMG_EXTENSIONS)}), found none in {empty}"
        raise ValueError(msg) from error


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(IMG_EXTENSIONS)


def _parts(root: Path) -> dict[str, Path]:
    """The folders of training, validation and test images, as far as there are; empty if ``root`` holds the classes."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    called = {part: [each for each in folders if each.name.lower() in names] for part, names in _PARTS.items()}
    if not called["train"]:
        _check_no_parts([folder for found in called.values() for folder in found])
        return {}
    parts: dict[str, Path] = {}
    for part, found in called.items():
        exact = [folder for folder in found if folder.name == part]
        if len(found) > 1 and not exact:
            msg = f"expected one folder of {part} images in {root}, got {' and '.join(each.name for each in found)}"
            raise ValueError(msg)
        if found:
            parts[part] = (exact or found)[0]
    return parts


def _check_no_parts(folders: Sequence[Path]) -> None:
    """Classes may be called so, too; but they hold images, and no folders."""
    if parts := [folder for folder in folders if any(path.is_dir() for path in folder.iterdir())]:
        names = ", ".join(folder.name for folder in parts)
        msg = (
            f"expected a folder train beside {names} in {parts[0].parent}, with the folders of the classes, found none"
        )
        raise ValueError(msg)


def _opened(path: str) -> Image.Image:
    try:
        with Image.open(path) as file:
            file.load()
            image, up_to_16_bits = file.copy(), file.format in ("PNG", "PPM")
    except OSError as error:
        msg = f"expected {path} to be an image, got {error}"
        raise ValueError(msg) from error
    if image.mode == "F" or (image.mode == "I" and not up_to_16_bits):
        kind = "floating numbers" if image.mode == "F" else "32 bits"
        msg = f"expected {path} to have pixels of 8 or 16 bits, got {kind}, whose range is not known"
        raise ValueError(msg)
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    return image


def _check_same_classes(folder: Path, files: Any, classes: Sequence[str]) -> None:
    if files.classes != list(classes):
        msg = f"expected {folder} to hold the classes of training, {list(classes)}, got {files.classes}"
        raise ValueError(msg)


def _parted(samples: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """A random share of the samples of each class, of two or more at least one, and the others."""
    order = torch.randperm(len(samples), generator=generator_of(seed, Purpose.SPLIT)).tolist()
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(samples[i][1], []).append(i)
    # At least one of each class where another one is left.
    sizes = {label: min(max(round(share * len(own)), 1), len(own) - 1) for label, own in by_class.items()}
    chosen = {i for label, own in by_class.items() for i in own[: sizes[label]]} or set(order[:1])
    return [samples[i] for i in sorted(chosen)], [sample for i, sample in enumerate(samples) if i not in chosen]
