"""The two moons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from lsa_lightning import MoonDataModule

SIZES = {"train_size": 60, "val_size": 30, "test_size": 50}


def moons(**kwargs: Any) -> MoonDataModule:
    data = MoonDataModule(**{**SIZES, **kwargs})
    data.setup()
    return data


def tensors(data: MoonDataModule) -> list[tuple[Tensor, Tensor]]:
    """(x, y) of the three splits."""
    return [(split.tensors[0], split.tensors[1]) for split in data.splits]


def test_points_are_those_of_scikit_learn_standardised_with_training_statistics() -> None:
    points, labels = make_moons(140, noise=0.3, random_state=4)
    train = points[:60]
    expected = (points - train.mean(axis=0)) / train.std(axis=0)
    got = tensors(moons(noise=0.3, seed=4))
    torch.testing.assert_close(torch.cat([x for x, _ in got]), torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(torch.cat([y for _, y in got]), torch.tensor(labels))


def test_only_the_training_split_is_exactly_standardised() -> None:
    (train, _), (val, _), (test, _) = tensors(moons())
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2))
    assert all(float(split.mean(0).abs().max()) > 1e-3 for split in (val, test))


def test_raw_points_are_not_standardised() -> None:
    points, _ = make_moons(140, noise=0.2, random_state=0)
    x = torch.cat([x for x, _ in tensors(moons(standardize=False))])
    torch.testing.assert_close(x, torch.tensor(points, dtype=torch.float32))


def test_sizes_and_types() -> None:
    for (x, y), size in zip(tensors(moons()), SIZES.values(), strict=True):
        assert (x.shape, x.dtype) == ((size, 2), torch.float32)
        assert (y.shape, y.dtype) == ((size,), torch.int64)
        assert set(y.tolist()) == {0, 1}


def test_splits_are_disjoint() -> None:
    rows = [tuple(point) for x, _ in tensors(moons()) for point in x.tolist()]
    assert len(set(rows)) == sum(SIZES.values())


def test_the_same_seed_gives_the_same_points_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    first = tensors(moons(seed=3))
    torch.manual_seed(2)
    second = tensors(moons(seed=3))
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def test_another_seed_gives_other_points() -> None:
    assert not torch.equal(tensors(moons(seed=0))[0][0], tensors(moons(seed=1))[0][0])


def test_setup_draws_once() -> None:
    data = moons()
    splits = data.splits
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    assert data.splits is splits


def test_the_training_loader_shuffles_all_points() -> None:
    data = moons(batch_size=16)
    torch.manual_seed(0)
    batches = [x for x, _ in data.train_dataloader()]
    assert [len(x) for x in batches] == [16, 16, 16, 12]
    seen, stored = torch.cat(batches), data.splits[0].tensors[0]
    assert not torch.equal(seen, stored)
    assert {tuple(p) for p in seen.tolist()} == {tuple(p) for p in stored.tolist()}


def test_validation_and_test_loaders_keep_the_order() -> None:
    data = moons()
    for loader, split in ((data.val_dataloader(), data.splits[1]), (data.test_dataloader(), data.splits[2])):
        assert torch.equal(torch.cat([x for x, _ in loader]), split.tensors[0])


def test_labels_follow_the_moons() -> None:
    x, y = tensors(moons(noise=0.0, standardize=False))[0]
    upper = x.square().sum(1)
    torch.testing.assert_close(upper[y == 0], torch.ones(int((y == 0).sum())))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise": -0.1}, "MoonDataModule: expected noise to be a finite number >= 0, got -0.1"),
        ({"train_size": 1}, "train_size to be an integer >= 2, got 1"),
        ({"val_size": 0}, "val_size to be an integer >= 1, got 0"),
        ({"test_size": 0}, "test_size to be an integer >= 1, got 0"),
        ({"batch_size": 0}, "batch_size to be an integer >= 1, got 0"),
        ({"seed": -1}, r"seed to be an integer in \[0, 4294967295\], got -1"),
        ({"noise": float("nan")}, "noise to be a finite number >= 0, got nan"),
        ({"standardize": "false"}, "standardize to be True or False, got 'false'"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoonDataModule(**wrong)


def test_points_without_labels_are_of_no_split() -> None:
    (first, again, second) = (MoonDataModule(**SIZES, seed=seed, unlabelled_size=40) for seed in (0, 0, 1))
    found = [torch.cat([x for x, _ in data.unlabelled_dataloader()]) for data in (first, again, second)]
    assert found[0].shape == (40, 2)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    points = torch.cat([split.tensors[0] for split in first.splits])
    assert float(torch.cdist(found[0], points).min()) > 0


@pytest.mark.parametrize("standardize", [True, False])
def test_points_without_labels_lie_where_the_others_do(standardize: bool) -> None:
    data = MoonDataModule(train_size=30, test_size=20000, unlabelled_size=20000, seed=2, standardize=standardize)
    found = torch.cat([x for x, _ in data.unlabelled_dataloader()])
    test = data.splits[2].tensors[0]
    torch.testing.assert_close(found.mean(0), test.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(found.std(0), test.std(0), rtol=0, atol=0.03)
    assert not standardize or float(test.mean(0).abs().max()) > 0.1  # the 30 points are not their mean
