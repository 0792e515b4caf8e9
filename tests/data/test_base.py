"""What holds for every image DataModule: splits, order, workers, ranks, cache, transforms, downloads."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tests.helpers.fake_data import UncheckedCIFAR10, write_cifar, write_mnist
from tests.helpers.modules import trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import functional as tv

from lsa_lightning import CIFAR10DataModule, MNISTDataModule
from lsa_lightning.data import ImageDataModule
from lsa_lightning.data.images import in_memory

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_mnist(tmp_path)
    write_cifar(tmp_path)
    return tmp_path


def cifar(root: Path, **kwargs: Any) -> CIFAR10DataModule:
    """70 training, 30 validation and 32 test images."""
    defaults = {"batch_size": 16, "val_size": 30, "num_workers": 0, "dataset_cls": UncheckedCIFAR10}
    data = CIFAR10DataModule(root, **{**defaults, **kwargs})
    data.setup()
    return data


def epochs(data: ImageDataModule, count: int = 1) -> list[Batches]:
    loader = data.train_dataloader()
    return [list(loader) for _ in range(count)]


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_same_seed_gives_bit_identical_batches(root: Path) -> None:
    assert_same(epochs(cifar(root, seed=3), 2), epochs(cifar(root, seed=3), 2))


def test_epochs_and_seeds_differ_in_order_and_augmentation(root: Path) -> None:
    (first, second), (other, _) = epochs(cifar(root), 2), epochs(cifar(root, seed=1), 2)
    assert not torch.equal(first[0][1], second[0][1])
    assert not torch.equal(first[0][1], other[0][1])
    plain, plain_second = epochs(cifar(root, augment=False), 2)
    assert_same([y for _, y in plain], [y for _, y in first])
    unaugmented = {x.sum().item() for batch, _ in plain for x in batch}
    assert {x.sum().item() for batch, _ in plain_second for x in batch} == unaugmented
    assert {x.sum().item() for batch, _ in first for x in batch} != unaugmented


def test_the_splits_are_disjoint_and_depend_on_the_seed_alone(root: Path) -> None:
    def rows(data: ImageDataModule) -> list[set[int]]:
        return [set(loader.dataset.rows.tolist()) for loader in (data.train_dataloader(), data.val_dataloader())]

    train, val = rows(cifar(root))
    assert (len(train), len(val), len(train | val)) == (70, 30, 100)
    assert rows(cifar(root, batch_size=7)) == [train, val]
    assert rows(cifar(root, seed=1)) != [train, val]


@pytest.mark.parametrize("kwargs", [{"num_workers": 2}, {"cache": True}, {"num_workers": 2, "cache": True}])
def test_workers_and_cache_do_not_change_the_batches(root: Path, kwargs: dict[str, Any]) -> None:
    assert_same(epochs(cifar(root, **kwargs), 2), epochs(cifar(root), 2))
    assert_same(list(cifar(root, **kwargs).val_dataloader()), list(cifar(root).val_dataloader()))


def of_rank(data: ImageDataModule, rank: int) -> DataLoader[Any]:
    """The training loader of one of two ranks."""
    epoch = iter(range(99))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=2, global_rank=rank, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    loader = data.train_dataloader()
    loader.sampler.current_epoch = lambda: next(epoch)
    return loader


@pytest.mark.parametrize("cache", [False, True])
def test_two_ranks_together_see_the_batches_of_one(root: Path, cache: bool) -> None:
    one = epochs(cifar(root, batch_size=10, cache=cache), 2)
    ranks = [of_rank(cifar(root, batch_size=5, cache=cache), rank) for rank in (0, 1)]
    for whole in one:
        for (x, y), *halves in zip(whole, *ranks, strict=True):
            assert_same(torch.stack([half for half, _ in halves], dim=1).flatten(0, 1), x)
            assert_same(torch.stack([half for _, half in halves], dim=1).flatten(0, 1), y)


class Recorder(pl.LightningModule):
    """Writes down what it is trained on."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        name = f"{self.current_epoch}_{batch_idx}_{self.global_rank}.pt"
        torch.save([part.clone() for part in batch], self.folder / name)
        return self.layer(batch[0].mean().view(1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("cache", [False, True])
def test_two_ddp_processes_together_are_trained_on_the_batches_of_one(root: Path, tmp_path: Path, cache: bool) -> None:
    records = []
    for devices, options in ((1, {}), (2, {"strategy": "ddp_fork", "devices": 2})):
        folder = tmp_path / str(devices)
        folder.mkdir()
        data = cifar(root, batch_size=10 // devices, cache=cache)
        trainer([], max_epochs=2, **options).fit(Recorder(folder), data)
        records.append(
            {
                (epoch, step): [torch.load(path) for path in sorted(folder.glob(f"{epoch}_{step}_*.pt"))]
                for epoch in range(2)
                for step in range(7)
            }
        )
    one, two = records
    for key, [(x, y)] in one.items():
        (first_x, first_y), (second_x, second_y) = two[key]
        assert_same(torch.stack([first_x, second_x], dim=1).flatten(0, 1), x)
        assert_same(torch.stack([first_y, second_y], dim=1).flatten(0, 1), y)


def test_the_epoch_is_the_trainers(root: Path, tmp_path: Path) -> None:
    trainer([], max_epochs=2).fit(Recorder(tmp_path), cifar(root))
    recorded = [torch.load(tmp_path / f"1_{step}_0.pt") for step in range(5)]
    assert_same([tuple(batch) for batch in recorded], epochs(cifar(root), 2)[1])


def test_transforms_replace_conversion_image_by_image(root: Path) -> None:
    data = cifar(root, train_transform=lambda image: tv.to_tensor(image) * 0, eval_transform=tv.to_tensor)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (16, 3, 32, 32)
    assert x.max() == 0
    assert y.dtype == torch.int64
    assert_same(next(iter(data.val_dataloader())), list(next(iter(cifar(root).val_dataloader()))))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_depend_on_seed_epoch_and_image_alone(root: Path, workers: int) -> None:
    def draw(image: Any) -> Tensor:
        numbers = random.random() + np.random.rand() + float(torch.rand(()))
        return tv.to_tensor(image) * 0 + numbers

    def drawn(**options: Any) -> list[list[Tensor]]:
        data = cifar(root, train_transform=draw, eval_transform=draw, num_workers=workers, **options)
        loaders = data.train_dataloader(), data.val_dataloader()
        return [[x[:, 0, 0, 0] for x, _ in loader] for loader in (loaders[0], loaders[0], loaders[1], loaders[1])]

    before = torch.get_rng_state(), random.getstate()
    first, second, validated, again = drawn()
    assert torch.equal(torch.cat(validated), torch.cat(again))
    assert not torch.equal(torch.cat(first).sort().values, torch.cat(second).sort().values)
    assert len(torch.cat(first).unique()) == len(torch.cat(first))
    if workers == 0:  # workers draw a seed of theirs
        assert random.getstate() == before[1]
    torch.manual_seed(5)
    torch.rand(3)
    for mine, theirs in zip(drawn(), (first, second, validated, again), strict=True):
        assert torch.equal(torch.cat(mine), torch.cat(theirs))
    assert not torch.equal(torch.cat(drawn(seed=1)[2]), torch.cat(validated))


def test_pictures_of_several_sizes_are_named() -> None:
    pictures = [(tv.to_pil_image(torch.zeros(3, size, 8, dtype=torch.uint8)), 0) for size in (8, 9)]
    with pytest.raises(ValueError, match=r"images of one size, got \[\(8, 8\), \(8, 9\)\] \(width, height\)"):
        in_memory(pictures, (3, 8, 8), 2)


def test_a_data_set_of_ones_own_without_arrays() -> None:
    class Pictures:
        def __init__(self, root: Path, train: bool) -> None:
            self.size = 20 if train else 10

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return tv.to_pil_image(torch.full((3, 8, 8), index, dtype=torch.uint8)), index % 3

    data = CIFAR10DataModule(
        dataset_cls=Pictures, image_shape=(3, 8, 8), num_classes=3, val_size=5, augment=False, num_workers=0
    )
    data.prepare_data()
    data.setup()
    x, y = next(iter(data.test_dataloader()))
    assert_same((x[:, 0, 0, 0] * 255).round().long() % 3, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_shape": (3, 16, 16)},
            r"expected uint8 images of shape \(3, 16, 16\).*got torch.uint8 of shape \(32, 32, 3\)",
        ),
        ({"num_classes": 5}, r"expected labels in 0\.\.4, got 0\.\.9"),
    ],
)
def test_what_does_not_fit_is_named(root: Path, change: dict[str, Any], message: str) -> None:
    class Opaque(UncheckedCIFAR10):
        """Its files are not looked into."""

    class Renamed(ImageDataModule):
        default_dataset = Opaque
        default_shape = (3, 32, 32)

    data = Renamed(root, val_size=30, num_workers=0, **change)
    data.setup()
    with pytest.raises(ValueError, match=f"Opaque under {root}: {message}"):
        data.train_dataloader()


def test_a_split_larger_than_the_data(root: Path) -> None:
    message = f"expected val_size < 64, the number of training images of MNIST under {root}, got 64"
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(root, val_size=64).setup("fit")


@pytest.mark.parametrize("cache", [False, True])
def test_train_size_leaves_the_other_images_without_labels(root: Path, cache: bool) -> None:
    def rows(loader: DataLoader[Any]) -> list[list[float]]:
        return sorted(x.flatten().tolist() for batch, _ in loader for x in batch)

    data, whole = cifar(root, train_size=20, augment=False, cache=cache), cifar(root, augment=False)
    labelled, rest = rows(data.train_dataloader()), rows(data.unlabelled_dataloader())
    assert (len(labelled), len(rest)) == (20, 50)
    assert sorted(labelled + rest) == rows(whole.train_dataloader())
    assert rows(data.val_dataloader()) == rows(whole.val_dataloader())
    assert labelled != rows(cifar(root, train_size=20, augment=False, seed=1).train_dataloader())


def test_images_without_labels_come_in_the_order_of_the_pass_and_are_augmented(root: Path) -> None:
    loader, plain = (cifar(root, train_size=20, augment=each).unlabelled_dataloader() for each in (True, False))
    first, again = list(loader), list(loader)
    loader.sampler.set_epoch(1)
    plain.sampler.set_epoch(1)
    second, unaugmented = list(loader), list(plain)
    assert_same(again, first)
    assert not torch.equal(second[0][1], first[0][1])
    assert_same([y for _, y in second], [y for _, y in unaugmented])
    assert not torch.equal(second[0][0], unaugmented[0][0])


def test_more_training_images_than_there_are(root: Path) -> None:
    where = f"the number of training images of UncheckedCIFAR10 under {root}"
    with pytest.raises(ValueError, match=f"expected train_size <= 70, {where} less val_size, got 71"):
        cifar(root, train_size=71)


@pytest.mark.parametrize("size", [None, 70])
def test_no_images_are_left_without_labels(root: Path, size: int | None) -> None:
    message = f"expected train_size < 70, so that images without labels are left, got {size}"
    with pytest.raises(ValueError, match=message):
        cifar(root, train_size=size).unlabelled_dataloader()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_size": 0}, "train_size to be an integer >= 1 or None, got 0"),
        ({"batch_size": 0}, "batch_size to be an integer >= 1, got 0"),
        ({"val_size": 0}, "val_size to be an integer >= 1, got 0"),
        ({"num_workers": -1}, "num_workers to be an integer >= 0, got -1"),
        ({"seed": -1}, "seed to be an integer >= 0, got -1"),
        ({"num_classes": 1}, "num_classes to be an integer >= 2, got 1"),
        ({"image_shape": (28, 28)}, r"image_shape to be three sizes >= 1 \(channels, height, width\), got \(28, 28\)"),
        ({"cache": "false"}, "cache to be True or False, got 'false'"),
        ({"augment": "none"}, "augment to be True, False or an Augmentation, got 'none'"),
        ({"cache": True, "train_transform": tv.to_tensor}, "no transforms with cache=True"),
        ({"cache": True, "pin_memory": True}, "no pin_memory with cache=True"),
        ({"num_workers": 0, "persistent_workers": True}, "persistent_workers only with num_workers >= 1"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        MNISTDataModule(**arguments)


def test_workers_persist_where_there_are_any() -> None:
    assert MNISTDataModule(num_workers=2).persistent_workers
    assert not MNISTDataModule(num_workers=0).persistent_workers
    assert not MNISTDataModule(num_workers=2, cache=True).persistent_workers


class Mirror(MNIST):
    """Downloads by writing fake files."""

    fails_after: int | None = None

    def download(self) -> None:
        folder = write_mnist(Path(self.root), name="Mirror")
        if self.fails_after is not None:
            for path in sorted(folder.iterdir())[self.fails_after :]:
                path.unlink()
            msg = "the connection broke"
            raise URLError(msg)


def test_downloads_what_is_missing(tmp_path: Path) -> None:
    data = MNISTDataModule(tmp_path / "new", dataset_cls=Mirror, val_size=14)
    data.prepare_data()
    data.setup()
    assert len(data.train_dataloader().dataset) == 50
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["Mirror"]


@pytest.mark.parametrize("fails_after", [0, 3])
def test_an_interrupted_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_after: int
) -> None:
    monkeypatch.setattr(Mirror, "fails_after", fails_after)
    message = r"Mirror is not under .*, and downloading it failed \(.*the connection broke.*\)\. Put these files"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        MNISTDataModule(tmp_path, dataset_cls=Mirror).prepare_data()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Mirror, "fails_after", None)
    MNISTDataModule(tmp_path, dataset_cls=Mirror).prepare_data()
    assert len(list((tmp_path / "Mirror" / "raw").iterdir())) == 4


def test_a_killed_download_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Mirror) -> None:
        write_mnist(Path(self.root), name="Mirror")
        raise KeyboardInterrupt

    monkeypatch.setattr(Mirror, "download", killed)
    with pytest.raises(KeyboardInterrupt):
        MNISTDataModule(tmp_path, dataset_cls=Mirror).prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_neither_downloaded_nor_changed(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    MNISTDataModule(tmp_path).prepare_data()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
