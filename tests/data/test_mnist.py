from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from tests.helpers.fake_data import write_idx, write_mnist
from torchvision.transforms.functional import to_tensor

from lsa_lightning import MNISTDataModule


def module(root: Path, **kwargs: Any) -> MNISTDataModule:
    defaults = {"batch_size": 16, "val_size": 14, "num_workers": 0, "download": False}
    data = MNISTDataModule(root, **{**defaults, **kwargs})
    data.prepare_data()
    data.setup()
    return data


def test_reads_what_torchvision_reads(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    x, y = next(iter(module(tmp_path, batch_size=32).test_dataloader()))
    reference = torchvision.datasets.MNIST(tmp_path, train=False)
    assert torch.equal(x, torch.stack([to_tensor(image) for image, _ in reference]))
    assert y.tolist() == [label for _, label in reference]
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert 0 <= x.min() <= x.max() <= 1


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_its_kin_is_a_class(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path, name=name)
    data = module(tmp_path, dataset_cls=getattr(torchvision.datasets, name))
    assert [len(loader.dataset) for loader in (data.train_dataloader(), data.test_dataloader())] == [50, 32]


def test_is_not_augmented(tmp_path: Path) -> None:
    assert MNISTDataModule(tmp_path).augmentation is None


def truncate(folder: Path) -> str:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    return "train-images-idx3-ubyte to have 50192 bytes, as its header says, got 50092"


def make_foreign(folder: Path) -> str:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(pickle.dumps("something else"))
    return (
        "t10k-labels-idx1-ubyte to be an IDX file of uint8 values with 1 dimensions, beginning with 00 00 08 01, got 80"
    )


def empty(folder: Path) -> str:
    (folder / "train-labels-idx1-ubyte").write_bytes(b"")
    return "train-labels-idx1-ubyte to be an IDX file .* got an empty file"


def resize(folder: Path) -> str:
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((64, 32, 32)))
    return "train-images-idx3-ubyte to hold images of 28 x 28 pixels, got 32 x 32"


def lose_labels(folder: Path) -> str:
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(63))
    return "train-labels-idx1-ubyte to hold one label per image of train-images-idx3-ubyte, 64 >= 1, got 63"


def label_wrongly(folder: Path) -> str:
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(32))
    return r"t10k-labels-idx1-ubyte to hold labels in 0\.\.9, got 0\.\.31"


@pytest.mark.parametrize("damage", [truncate, make_foreign, empty, resize, lose_labels, label_wrongly])
def test_a_bad_file_is_named_with_expected_and_got(tmp_path: Path, damage: Any) -> None:
    message = damage(write_mnist(tmp_path))
    with pytest.raises(ValueError, match=f"expected {tmp_path}/MNIST/raw/{message}"):
        module(tmp_path)


def test_missing_files_are_listed_with_their_place(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    (folder / "t10k-images-idx3-ubyte").unlink()
    message = rf"MNIST is not complete under {tmp_path}\. Put these files .*\n  {folder}/t10k-images-idx3-ubyte\n"
    with pytest.raises(FileNotFoundError, match=message):
        module(tmp_path)
    data = MNISTDataModule(tmp_path)
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        data.setup("fit")
