"""What the image DataModules share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lsa_lightning.data.augmentation import Augmentation
from lsa_lightning.data.files import DataFile, check_md5, expected_files, fetch, missing, where_to_put
from lsa_lightning.data.images import Batch, ImageBatches, TransformedImages, in_memory
from lsa_lightning.data.loader import ResumableDataLoader, start_worker
from lsa_lightning.data.sampling import EpochIndices
from lsa_lightning.utils.checks import flag, function, instance, integer, or_none, refuse, sequence, text
from lsa_lightning.utils.random import Purpose, generator_of

Transform = Callable[[Any], Tensor]
"""Makes a float tensor ``[C, H, W]`` in [0, 1] from an image as the data set gives it (PIL in torchvision)."""


Split = ImageBatches | TransformedImages


class ImageDataModule(pl.LightningDataModule):
    """Pixels float32 ``[N, C, H, W]`` in [0, 1] with labels int64 ``[N]``, from a torchvision-like data set.

    The data set's training images are split into training and validation ones; its test images are the test split. The
    split, the order of each epoch and the augmentation depend on ``seed`` (and the epoch) alone: one rank with batches
    of 2 n images sees the same as two ranks with batches of n. Training images are dealt out to the ranks here; for the
    other splits Lightning does it. Normalisation belongs into the model.

    Images are kept in memory as one uint8 tensor and read, augmented and converted a batch at a time: by
    ``num_workers`` worker processes, or with ``cache=True`` where the tensor lies, which is the trainer's device. With
    a ``train_transform`` or ``eval_transform`` of your own, images of those splits go through it one by one instead.

    Args:
        root: folder of the files, as torchvision lays them out; made when downloading.
        batch_size: images per batch and process, >= 1.
        val_size: number of training images that become the validation split, >= 1 and smaller than their number.
        train_size: number >= 1 of the others to train on, drawn at random; None: all. What is left then has no labels:
            see :meth:`unlabelled_dataloader`.
        num_workers: worker processes per loader, >= 0; not used with ``cache``.
        pin_memory: copy batches to pinned memory; None: if there is a GPU and no ``cache``.
        persistent_workers: keep workers between epochs; None: if there are any.
        augment: True: the usual augmentation of the data set, for training images only; False: none; or one's own.
        cache: keep the whole data set on the trainer's device and use no workers.
        seed: seed >= 0 of split, order and augmentation.
        download: fetch files that are missing.
        dataset_cls: the data set's class, called as torchvision's are: ``(root, train=bool, download=bool)`` or
            ``(root, split="train" | "test", download=bool)``; None: the DataModule's own. See :meth:`make_dataset`.
        image_shape: (channels, height, width); None: the DataModule's own.
        num_classes: labels are 0..num_classes-1; None: the DataModule's own.
        train_transform: replaces conversion and augmentation of training images; not with ``cache``.
        eval_transform: replaces conversion of validation and test images; not with ``cache``.

    Raises:
        ValueError: if an argument is outside its range; in ``setup``, if files are damaged or other ones, sizes or
            labels are not the expected ones, or the split is larger than the data.
        FileNotFoundError: if files are missing and cannot be downloaded; the message says where to put which files.
    """

    default_dataset: Callable[..., Any]
    default_shape: tuple[int, int, int]
    default_augmentation: Augmentation | None = None

    def __init__(
        self,
        root: str | Path = "data",
        *,
        batch_size: int = 128,
        val_size: int = 2000,
        train_size: int | None = None,
        num_workers: int = 2,
        pin_memory: bool | None = None,
        persistent_workers: bool | None = None,
        augment: bool | Augmentation = True,
        cache: bool = False,
        seed: int = 0,
        download: bool = True,
        dataset_cls: Callable[..., Any] | None = None,
        image_shape: Sequence[int] | None = None,
        num_classes: int = 10,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root if isinstance(root, Path) else text(self, "root", root)).expanduser()
        self.batch_size = integer(self, "batch_size", batch_size, low=1)
        self.val_size = integer(self, "val_size", val_size, low=1)
        self.train_size = or_none(integer, self, "train_size", train_size, low=1)
        self.cache = flag(self, "cache", cache)
        self.num_workers = 0 if cache else integer(self, "num_workers", num_workers, low=0)
        pinned, kept = torch.cuda.is_available() and not cache, self.num_workers > 0
        self.pin_memory = pinned if pin_memory is None else flag(self, "pin_memory", pin_memory)
        self.persistent_workers = (
            kept if persistent_workers is None else flag(self, "persistent_workers", persistent_workers)
        )
        instance(self, "augment", augment, (bool, Augmentation), what="True, False or an Augmentation")
        self.augmentation = self.default_augmentation if augment is True else augment or None
        self.seed = integer(self, "seed", seed, low=0)
        self.download = flag(self, "download", download)
        self.dataset_cls = (
            type(self).default_dataset if dataset_cls is None else function(self, "dataset_cls", dataset_cls)
        )
        self.image_shape = self._checked_shape(self.default_shape if image_shape is None else image_shape)
        self.num_classes = integer(self, "num_classes", num_classes, low=2)
        self.train_transform: Transform | None = or_none(function, self, "train_transform", train_transform)
        self.eval_transform: Transform | None = or_none(function, self, "eval_transform", eval_transform)
        self._check_combination()
        self._datasets: dict[bool, Any] = {}
        self._tensors: dict[bool, Batch] = {}
        self._passes = 0

    def _checked_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        sizes = sequence(self, "image_shape", shape, integer, low=1)
        if len(sizes) != 3:
            refuse(self, "image_shape", "three sizes >= 1 (channels, height, width)", shape)
        channels, height, width = sizes
        return channels, height, width

    def _check_combination(self) -> None:
        broken = []
        if self.cache and (self.train_transform or self.eval_transform):
            broken.append("no transforms with cache=True, which works on whole batches: give augment=... instead")
        if self.cache and self.pin_memory:
            broken.append("no pin_memory with cache=True, whose batches are on the device already")
        if self.persistent_workers and self.num_workers == 0:
            broken.append("persistent_workers only with num_workers >= 1 and without cache")
        if broken:
            msg = f"expected {', '.join(broken)}"
            raise ValueError(msg)

    def make_dataset(self, root: Path, train: bool, download: bool) -> Any:
        """Open one split; override it for a class with other arguments.

        Args:
            root: folder of the files.
            train: the training or the test split.
            download: fetch what is missing into ``root``.
        """
        known = inspect.signature(self.dataset_cls).parameters
        which = {"split": "train" if train else "test"} if "split" in known else {"train": train}
        return self.dataset_cls(root, **which, **({"download": download} if "download" in known else {}))

    def check_files(self, files: list[DataFile]) -> None:
        """Look into the files before they are read; raises a ValueError that names the first bad one."""
        check_md5(files)

    def prepare_data(self) -> None:
        """Download what is missing, so that an interruption leaves nothing that a later run would trust."""
        files = expected_files(self.dataset_cls, self.root)
        if missing(files) and self.download:
            fetch(self.dataset_cls, files, self.root, self._download_all)
        self._require(files)

    def _download_all(self, folder: Path) -> None:
        for train in (True, False):
            self.make_dataset(folder, train, download=True)

    def _require(self, files: list[DataFile]) -> None:
        if missing(files):
            reason = f"{self._name()} is not complete under {self.root}."
            raise FileNotFoundError(where_to_put(self.dataset_cls, files, reason))

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that ``stage`` needs, once."""
        if not self._datasets:
            files = expected_files(self.dataset_cls, self.root)
            self._require(files)
            self.check_files(files)
        needed = {"fit": [True], "validate": [True], "test": [False], "predict": [False]}
        for train in needed.get(stage or "", [True, False]):
            if train not in self._datasets:
                self._datasets[train] = self.make_dataset(self.root, train, download=False)
        if True in self._datasets:
            self._check_split(len(self._datasets[True]))

    def _check_split(self, available: int) -> None:
        where = f"the number of training images of {self._name()} under {self.root}"
        if self.val_size >= available:
            msg = f"expected val_size < {available}, {where}, got {self.val_size}"
            raise ValueError(msg)
        if self.train_size is not None and self.train_size > available - self.val_size:
            left = available - self.val_size
            msg = f"expected train_size <= {left}, {where} less val_size, got {self.train_size}"
            raise ValueError(msg)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training images in the order of the epoch."""
        rows, _ = self._training_rows()
        dataset = self._split(True, rows, self.train_transform, self.augmentation)
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        order = EpochIndices(len(rows), self.seed, current_epoch=self._epoch, ranks=ranks, rank=rank)
        return self._loader(dataset, order)

    def unlabelled_dataloader(self) -> DataLoader[Any]:
        """What ``train_size`` leaves, augmented alike, for :class:`~lsa_lightning.unlabelled.FromLoader`.

        Their labels come with them, and must not be looked at. The order follows ``sampler.set_epoch``; it is the same
        in all processes.

        Raises:
            ValueError: if ``train_size`` leaves none.
        """
        labelled, rows = self._training_rows()
        if len(rows) == 0:
            msg = (
                f"expected train_size < {len(labelled)}, so that images without labels are left, got {self.train_size}"
            )
            raise ValueError(msg)
        dataset = self._split(True, rows, self.train_transform, self.augmentation)
        order = EpochIndices(len(rows), self.seed, current_epoch=lambda: order.epoch)
        return self._loader(dataset, order)

    def _training_rows(self) -> tuple[Tensor, Tensor]:
        """Of the training images, and of those that are left without labels."""
        rows = self._shuffled_rows()[self.val_size :]
        if self.train_size is None:
            return rows, rows[:0]
        rows = rows[torch.randperm(len(rows), generator=generator_of(self.seed, Purpose.SPLIT))]
        return rows[: self.train_size], rows[self.train_size :]

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation images."""
        return self._loader(self._split(True, self._shuffled_rows()[: self.val_size], self.eval_transform))

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images."""
        return self._loader(self._split(False, torch.arange(len(self._datasets[False])), self.eval_transform))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Test images."""
        return self.test_dataloader()

    def _shuffled_rows(self) -> Tensor:
        return torch.randperm(len(self._datasets[True]), generator=generator_of(self.seed, Purpose.SPLIT))

    def _epoch(self) -> int:
        """The trainer's epoch; without a trainer, how often the training loader was iterated before."""
        if self.trainer is not None:
            return self.trainer.current_epoch
        self._passes += 1
        return self._passes - 1

    def _split(
        self, train: bool, rows: Tensor, transform: Transform | None, augmentation: Augmentation | None = None
    ) -> Split:
        if transform is not None:
            return TransformedImages(self._datasets[train], rows, transform=transform, seed=self.seed)
        return ImageBatches(*self._in_memory(train), rows=rows, augmentation=augmentation, seed=self.seed)

    def _in_memory(self, train: bool) -> Batch:
        if train not in self._tensors:
            try:
                tensors = in_memory(self._datasets[train], self.image_shape, self.num_classes)
            except ValueError as error:
                msg = f"{self._name()} under {self.root}: {error}"
                raise ValueError(msg) from error
            self._tensors[train] = tensors
        images, labels = (tensor.to(self._device()) for tensor in self._tensors[train])
        self._tensors[train] = images, labels
        return images, labels

    def _device(self) -> torch.device:
        if not self.cache or self.trainer is None:
            return torch.device("cpu")
        return self.trainer.strategy.root_device

    def _loader(self, dataset: Split, sampler: Sampler[int] | None = None) -> DataLoader[Any]:
        loader_cls = ResumableDataLoader if sampler is not None else DataLoader
        return loader_cls(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.persistent_workers,
            collate_fn=_as_it_is if isinstance(dataset, ImageBatches) else None,
            worker_init_fn=start_worker,
        )

    def _name(self) -> str:
        return getattr(self.dataset_cls, "__name__", repr(self.dataset_cls))


def _as_it_is(batch: Any) -> Any:
    """Collating is done: the data set gives whole batches."""
    return batch
