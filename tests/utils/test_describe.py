from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lsa_lightning.utils.describe import described, without_addresses


class Thing:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def method(self) -> None:
        """Nothing."""


def adding(number: float) -> Any:
    return lambda x: x + number


def test_addresses_are_left_out_of_a_repr() -> None:
    assert without_addresses(repr([object(), len])) == "[<object object>, <built-in function len>]"


@pytest.mark.parametrize(
    "make",
    [
        lambda k: Thing(_private=k),
        lambda k: Thing(inner=Thing(tensor=torch.full((2,), float(k)))),
        lambda k: np.full(3, k),
        torch.zeros,
        adding,
        lambda k: partial(print, k, end=str(k)),
        lambda k: [{"a": (k, {k})}],
        lambda k: torch.nn.Dropout(k / 10),
        lambda k: Thing(k=k).method,
        lambda k: [int, float, str][k],
        lambda k: [lambda x: x.sin(), lambda x: x.cos(), lambda x: x.sin() + 1][k],
    ],
)
def test_equal_objects_have_one_digest_and_different_ones_have_two(make: Any) -> None:
    assert described(make(1)) == described(make(1))
    assert described(make(1)) != described(make(2))


def test_an_object_may_hold_itself() -> None:
    thing = Thing(number=1)
    thing.me = thing  # type: ignore[attr-defined]
    assert described(thing) == described(thing)


def test_attributes_can_be_left_out() -> None:
    leave_out = frozenset({"drawn"})
    assert described(Thing(a=1, drawn=1), leave_out=leave_out) == described(Thing(a=1, drawn=2), leave_out=leave_out)
