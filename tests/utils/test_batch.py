from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lsa_lightning.utils.batch import read_batch, replace_tensor

X, Y = torch.zeros(2, 3), torch.zeros(2)
INPUT_KEYS = ("image", "images", "img", "pixel_values", "input", "inputs", "data", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        (X, Y, "more"),
        Pair(X, Y),
        *({first: X, "label": Y} for first in INPUT_KEYS),
        *({"image": X, second: Y} for second in LABEL_KEYS),
        {"pixel_values": X, "labels": Y, "x": "not a tensor"},
        UserDict({"pixel_values": X, "labels": Y}),
    ],
)
def test_usual_batches_are_read_without_a_copy(batch: Any) -> None:
    x, y = read_batch(batch)
    assert x is X
    assert y is Y


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (X, "a Tensor"),
        ((X,), r"a tuple of \['Tensor'\]"),
        ((X, "label"), r"a tuple of \['Tensor', 'str'\]"),
        ({"pixels": X, "label": Y}, r"a dict with keys \['pixels', 'label'\]"),
        ({"input_ids": X, "labels": Y}, r"a dict with keys \['input_ids', 'labels'\]"),
        (None, "a NoneType"),
    ],
)
def test_other_batches_are_described(batch: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a batch \(x, y, \.\.\.\).*got {got}; pass batch_fn"):
        read_batch(batch)


@pytest.mark.parametrize("twice", [("image", "x"), ("pixel_values", "data"), ("label", "target")])
def test_mappings_that_may_mean_two_tensors_are_refused(twice: tuple[str, str]) -> None:
    batch = {**({"image": X} if twice[0] == "label" else {"label": Y}), **dict.fromkeys(twice, X)}
    with pytest.raises(
        ValueError, match=rf"expected a batch with one of the keys .*, got \['{twice[0]}', '{twice[1]}'\]"
    ):
        read_batch(batch)


@dataclass
class Nested:
    inner: dict[str, list[Tensor]]
    label: Tensor


@pytest.mark.parametrize("batch", [(X, Y), {"a": [(X, Y)]}, Pair(X, Y), Nested({"views": [Y, X]}, Y)])
def test_the_tensor_is_replaced_wherever_it_stands(batch: Any) -> None:
    new = torch.ones(2, 3)
    text = repr(replace_tensor(batch, X, new))
    assert text == repr(batch).replace(repr(X), repr(new))
    assert type(replace_tensor(batch, X, new)) is type(batch)
    assert repr(X) in repr(batch)


def test_a_copy_of_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected batch_fn to return the batch's own input tensor"):
        replace_tensor((X, Y), X.clone(), X)


@pytest.mark.parametrize("order", [("y", "x"), ("index", "x", "y")])
def test_inputs_in_the_place_of_labels_are_said(order: tuple[str, ...]) -> None:
    parts = {"x": torch.rand(4, 3), "y": torch.zeros(4).long(), "index": torch.arange(4)}
    with pytest.raises(ValueError, match=r"in which y looks like inputs.*pass batch_fn"):
        read_batch(tuple(parts[name] for name in order))
