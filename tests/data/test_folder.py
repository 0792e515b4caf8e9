"""Images in folders of their classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.pictures import write_pictures

from lsa_lightning.data import CropFlip, ImageFolderDataModule
from lsa_lightning.data.folder import FolderImages, class_folders


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    defaults = {"image_shape": (3, 32, 32), "batch_size": 4, "num_workers": 0}
    data = ImageFolderDataModule(root, **{**defaults, **options})
    data.prepare_data()
    data.setup()
    return data


def names_of(data: ImageFolderDataModule, split: str) -> list[str]:
    """The files of a split, as class/file."""
    loader = getattr(data, f"{split}_dataloader")()
    samples = data._datasets[split != "test"].samples
    return ["/".join(Path(samples[int(row)][0]).parts[-2:]) for row in loader.dataset.rows]


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    data = module(write_pictures(tmp_path, size=(32, 32)), augment=False)
    x, y = next(iter(data.test_dataloader()))
    expected = [Image.open(tmp_path / name) for name in names_of(data, "test")][: len(x)]
    assert x.shape[1:] == (3, 32, 32)
    assert [round(255 * float(image[0, 5, 7])) for image in x] == [image.getpixel((7, 5))[0] for image in expected]
    assert y.tolist() == [int(name.startswith("dog")) for name in names_of(data, "test")][: len(y)]


def test_what_has_no_folder_is_held_out_and_the_test_images_are_the_same_for_every_seed(tmp_path: Path) -> None:
    write_pictures(tmp_path, each=20)
    splits = [
        {split: names_of(module(tmp_path, seed=seed), split) for split in ("train", "val", "test")} for seed in (0, 1)
    ]
    for each in splits:
        assert [len(names) for names in each.values()] == [28, 4, 8]
        assert len({name for names in each.values() for name in names}) == 40
    assert splits[0]["test"] == splits[1]["test"]
    assert splits[0]["val"] != splits[1]["val"]


def test_fewer_training_images_are_of_all_classes_and_leave_the_others_without_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path, each=20)
    data = module(tmp_path, train_size=10)
    labelled, rest = names_of(data, "train"), names_of(data, "unlabelled")
    assert (len(labelled), len(rest)) == (10, 18)
    assert {*labelled, *rest} == {*names_of(module(tmp_path), "train")}
    assert len({name.split("/")[0] for name in labelled}) == 2


def test_folders_of_splits_are_the_splits(tmp_path: Path) -> None:
    for split, each in (("train", 5), ("val", 2), ("test", 3)):
        write_pictures(tmp_path / split, each=each)
    data = module(tmp_path)
    assert [len(names_of(data, split)) for split in ("train", "val", "test")] == [10, 4, 6]
    assert next(iter(data.val_dataloader()))[1].tolist() == [0, 0, 1, 1]


def test_another_size_is_resized_and_cropped_at_the_center(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    image.save(tmp_path / "wide.png")
    small, _ = FolderImages([(str(tmp_path / "wide.png"), 0)], (1, 10, 10))[0]
    assert (small.size, small.mode, small.getpixel((5, 5))) == ((10, 10), "L", 255)


def test_the_number_of_classes_is_that_of_the_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a", "b", "c"])
    assert module(tmp_path).num_classes == 3
    assert class_folders(tmp_path) == ["a", "b", "c"]


def test_the_padding_follows_the_size(tmp_path: Path) -> None:
    assert repr(ImageFolderDataModule(tmp_path, image_shape=(3, 96, 96)).augmentation) == repr(CropFlip(12))
    assert ImageFolderDataModule(tmp_path, augment=False).augmentation is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3}, r"a folder for each of 3 classes, .* got 2: \['cat', 'dog'\]"),
        ({"image_shape": (2, 32, 32)}, "expected image_shape to be of 1 or 3 channels, got"),
        ({"val_share": 1.0}, r"expected val_share to be a finite number in \(0, 1\), got 1.0"),
        (
            {"root": "missing"},
            "expected data.root to hold a folder for each of at least two classes, .* got nothing in",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_pictures(tmp_path)
    with pytest.raises(ValueError, match=message):
        module(tmp_path / options.pop("root", ""), **options)


def test_other_classes_in_a_split_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "test", ["cat", "cow"])
    with pytest.raises(
        ValueError, match=r"test to hold the classes of training, \['cat', 'dog'\], got \['cat', 'cow'\]"
    ):
        module(tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "cat" / "0.png").write_text("no image")
    data = module(tmp_path)
    with pytest.raises(ValueError, match=r"expected .*cat/0\.png to be an image"):
        list(data.train_dataloader()), list(data.val_dataloader()), list(data.test_dataloader())


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(ValueError, match=r"expected images in each class of .*, found none in \['cow'\]"):
        module(tmp_path)


def test_every_epoch_sees_every_training_image_once(tmp_path: Path) -> None:
    data = module(write_pictures(tmp_path, each=10), batch_size=5)
    labels = torch.cat([y for _, y in data.train_dataloader()])
    assert len(labels) == len(names_of(data, "train")) == 14


@pytest.mark.parametrize("names", [("Train", "Valid", "Test"), ("training", "dev", "testing")])
def test_folders_of_splits_go_by_several_names(names: tuple[str, str, str], tmp_path: Path) -> None:
    for name, each in zip(names, (5, 2, 3), strict=True):
        write_pictures(tmp_path / name, each=each)
    data = module(tmp_path)
    assert [len(names_of(data, split)) for split in ("train", "val", "test")] == [10, 4, 6]
    assert class_folders(tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "valid", "Validation"), "expected one folder of val images in .*, got Validation and valid"),
        (("val", "test"), "expected a folder train beside val, test in"),
    ],
)
def test_folders_of_splits_that_leave_it_open_are_refused(
    folders: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for name in folders:
        write_pictures(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        module(tmp_path)


def write_grey(path: Path, values: Any) -> tuple[str, int]:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return str(path), 0


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_16_bits_are_brought_to_8(ending: str, channels: int, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    image, _ = FolderImages([write_grey(tmp_path / f"0.{ending}", values)], (channels, 16, 16))[0]
    assert np.asarray(image).reshape(256, channels)[:, 0].tolist() == list(range(256))


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating numbers"), (np.int32, "32 bits")])
def test_pixels_of_unknown_range_are_refused(kind: Any, words: str, tmp_path: Path) -> None:
    sample = write_grey(tmp_path / "0.tif", np.ones((16, 16), dtype=kind))
    with pytest.raises(ValueError, match=f"0.tif to have pixels of 8 or 16 bits, got {words}, whose range is not"):
        FolderImages([sample], (1, 16, 16))[0]


@pytest.mark.parametrize("seed", range(4))
def test_every_class_is_held_out_of_and_trained_on(seed: int, tmp_path: Path) -> None:
    data = module(write_pictures(tmp_path, ["a", "b", "c"], each=4), seed=seed, batch_size=1)
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        assert Counter(name.split("/")[0] for name in names_of(data, split)) == dict.fromkeys("abc", each)


def test_classes_may_be_called_as_parts_are(tmp_path: Path) -> None:
    assert module(write_pictures(tmp_path, ["Control", "Test"])).num_classes == 2


def test_the_exact_name_of_a_part_is_meant(tmp_path: Path) -> None:
    for name, each in (("train", 5), ("val", 2), ("test", 3), ("dev", 4)):
        write_pictures(tmp_path / name, each=each)
    assert len(names_of(module(tmp_path), "val")) == 4


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", ["a", "b"], each=4)
    write_pictures(tmp_path / "few", ["c", "d"], each=1)
    data = module(tmp_path / "few", test_share=0.5, val_share=0.5)
    assert {name.split("/")[0] for name in names_of(data, "train")} == set("abcd")
    single = module(write_pictures(tmp_path / "single", list("abcdefgh"), each=1))
    assert [len(names_of(single, split)) for split in ("train", "val", "test")] == [6, 1, 1]


def test_greys_of_16_bits_in_a_portable_map(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(">u2")
    (tmp_path / "0.pgm").write_bytes(b"P5 16 16 65535\n" + values.tobytes())
    image, _ = FolderImages([(str(tmp_path / "0.pgm"), 0)], (1, 16, 16))[0]
    assert np.asarray(image).flatten().tolist() == list(range(256))
