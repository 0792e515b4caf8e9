from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.fake_data import UncheckedCIFAR10, UncheckedSVHN, write_cifar, write_cifar_batch, write_svhn
from torchvision.datasets import CIFAR100
from torchvision.transforms.functional import to_tensor

from lsa_lightning import CIFAR10DataModule
from lsa_lightning.data import CropFlip


def module(root: Path, **kwargs: Any) -> CIFAR10DataModule:
    defaults = {"batch_size": 16, "val_size": 30, "num_workers": 0, "download": False}
    data = CIFAR10DataModule(root, **{**defaults, **kwargs})
    data.prepare_data()
    data.setup()
    return data


def test_reads_what_torchvision_reads(tmp_path: Path) -> None:
    dataset_cls = write_cifar(tmp_path)
    x, y = next(iter(module(tmp_path, dataset_cls=dataset_cls, batch_size=32).test_dataloader()))
    reference = dataset_cls(tmp_path, train=False)
    assert torch.equal(x, torch.stack([to_tensor(image) for image, _ in reference]))
    assert y.tolist() == [label for _, label in reference]


def test_only_training_images_are_augmented(tmp_path: Path) -> None:
    dataset_cls = write_cifar(tmp_path)
    data, plain = (module(tmp_path, dataset_cls=dataset_cls, augment=augment) for augment in (True, False))
    for loader in ("val_dataloader", "test_dataloader"):
        pairs = zip(getattr(data, loader)(), getattr(plain, loader)(), strict=True)
        assert all(torch.equal(x, other) for (x, _), (other, _) in pairs)
    (x, y), (other, labels) = next(iter(data.train_dataloader())), next(iter(plain.train_dataloader()))
    assert torch.equal(y, labels)
    assert not torch.equal(x, other)


def test_cifar100_is_a_class_and_a_number(tmp_path: Path) -> None:
    data = module(tmp_path, dataset_cls=write_cifar(tmp_path, train=150, test=100, base=CIFAR100), num_classes=100)
    assert next(iter(data.test_dataloader()))[1].max() == 15
    assert len(data.train_dataloader().dataset) == 120


def test_svhn_is_a_class(tmp_path: Path) -> None:
    write_svhn(tmp_path, 40)
    data = module(tmp_path, dataset_cls=UncheckedSVHN, augment=CropFlip(flip=False), batch_size=40)
    x, y = next(iter(data.test_dataloader()))
    assert torch.equal(x[0], to_tensor(UncheckedSVHN(tmp_path, split="test")[0][0]))
    assert sorted(set(y.tolist())) == list(range(10))
    assert len(data.train_dataloader().dataset) == 10


def test_a_truncated_file_is_named_with_both_checksums(tmp_path: Path) -> None:
    dataset_cls = write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        ValueError, match=f"expected {path} to have the MD5 checksum [0-9a-f]{{32}}, got [0-9a-f]{{32}}"
    ):
        module(tmp_path, dataset_cls=dataset_cls)


def test_the_official_class_keeps_its_checksums(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    with pytest.raises(ValueError, match="data_batch_1 to have the MD5 checksum c99cafc152244af753f735de768cd75f, got"):
        module(tmp_path)


def test_a_class_may_waive_the_checksums(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = module(tmp_path, dataset_cls=UncheckedCIFAR10)
    assert len(data.train_dataloader().dataset) == 70


def truncate(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-200])
    return "to be a CIFAR batch, a pickled dict of data and labels, got: "


def make_foreign(path: Path) -> str:
    path.write_bytes(b"\x89PNG and so on")
    return "to be a CIFAR batch, a pickled dict of data and labels, got: UnpicklingError"


def pickle_something_else(path: Path) -> str:
    path.write_bytes(pickle.dumps({"pixels": 3}))
    return "to be a CIFAR batch, .* got: KeyError"


def resize(path: Path) -> str:
    path.write_bytes(pickle.dumps({"data": np.zeros((20, 784), np.uint8), "labels": [0] * 20}))
    return r"to hold uint8 data of shape \[N, 3072\], got uint8 \[20, 784\]"


def lose_labels(path: Path) -> str:
    path.write_bytes(pickle.dumps({"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 19}))
    return r"to hold 20 labels, one per image, got shape \[19\]"


def label_wrongly(path: Path) -> str:
    write_cifar_batch(path, 20, classes=12)
    return r"to hold labels in 0\.\.9, got 0\.\.11"


@pytest.mark.parametrize("damage", [truncate, make_foreign, pickle_something_else, resize, lose_labels, label_wrongly])
def test_without_checksums_a_bad_file_is_named_with_expected_and_got(tmp_path: Path, damage: Any) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    message = damage(path)
    with pytest.raises(ValueError, match=f"expected {path} {message}"):
        module(tmp_path, dataset_cls=UncheckedCIFAR10)


def test_missing_files_are_listed_with_their_source(tmp_path: Path) -> None:
    message = r"CIFAR10 is not complete under .*\n  .*/cifar-10-batches-py/data_batch_1\n(.*\n)+.*cs\.toronto\.edu"
    with pytest.raises(FileNotFoundError, match=message):
        CIFAR10DataModule(tmp_path, download=False).prepare_data()
