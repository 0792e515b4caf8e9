"""Checks of arguments: what passes in which type, and what is refused in which words."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lsa_lightning.attacks import PGD
from lsa_lightning.utils.checks import choice, flag, function, instance, integer, mapping, number, or_none, sequence

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1), Fraction(1)])
def test_real_numbers_become_floats(value: Any) -> None:
    checked = number("F", "a", value, above=0, high=1)
    assert type(checked) is float
    assert checked == 1.0


@pytest.mark.parametrize(
    "value", [None, NAN, INF, -INF, 10**400, "1", True, [1.0], torch.tensor(1.0), 0, 1.5, object()]
)
def test_no_number_within_the_limits(value: Any) -> None:
    with pytest.raises(ValueError, match=r"F: expected a to be a finite number in \(0, 1\], got "):
        number("F", "a", value, above=0, high=1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)])
def test_integers_become_ints(value: Any) -> None:
    checked = integer("F", "a", value, low=1)
    assert type(checked) is int
    assert checked == 3


@pytest.mark.parametrize(
    "value",
    [None, NAN, 1.0, "1", True, np.True_, np.array([3]), torch.tensor(True), torch.tensor([3]), torch.tensor(3.0), 0],
)
def test_no_integer_within_the_limits(value: Any) -> None:
    with pytest.raises(ValueError, match="F: expected a to be an integer >= 1, got "):
        integer("F", "a", value, low=1)


@pytest.mark.parametrize("value", [None, 0, 1, "false", "", [], torch.tensor(True)])
def test_no_flag(value: Any) -> None:
    with pytest.raises(ValueError, match="F: expected a to be True or False, got "):
        flag("F", "a", value)


def test_flags_become_bools() -> None:
    assert flag("F", "a", np.True_) is True
    assert flag("F", "a", False) is False


@pytest.mark.parametrize("value", [None, "c", "", [], {}, 0])
def test_no_choice(value: Any) -> None:
    with pytest.raises(ValueError, match=r"F: expected a to be one of \['a', 'b'\], got "):
        choice("F", "a", value, {"a": 1, "b": 2})


@pytest.mark.parametrize("values", [[1, 2], (1, 2), np.array([1.0, 2.0]), torch.tensor([1, 2]), (n for n in (1, 2))])
def test_lists_of_any_kind(values: Any) -> None:
    assert sequence("F", "a", values, number) == [1.0, 2.0]


@pytest.mark.parametrize("values", [None, 1, "12", b"12", {1: 2}, [], list, torch.tensor(1), np.array([])])
def test_no_list(values: Any) -> None:
    with pytest.raises(ValueError, match="F: expected a to be a list of at least one value, got "):
        sequence("F", "a", values, number)


@pytest.mark.parametrize("values", [None, 1, [], {}, {None: 0.1}, ["fc1"]])
def test_no_mapping_of_names(values: Any) -> None:
    with pytest.raises(ValueError, match="F: expected a to be a mapping of at least one name, got "):
        mapping("F", "a", values, number)


def test_numbers_are_names_too() -> None:
    assert mapping("F", "a", {0: 1, "fc": 2}, integer) == {"0": 1, "fc": 2}


def test_the_item_at_fault_is_named() -> None:
    with pytest.raises(ValueError, match=r"F: expected a\['fc2'\] to be a finite number >= 0, got nan"):
        mapping("F", "a", {"fc1": 1, "fc2": NAN}, number, low=0)


def test_what_is_no_instance_or_function() -> None:
    with pytest.raises(ValueError, match="F: expected a to be a PGD, got <class"):
        instance("F", "a", PGD, PGD)
    with pytest.raises(ValueError, match="F: expected a to be a function or None, got 'f'"):
        or_none(function, "F", "a", "f")


def test_none_is_allowed_where_it_is_said() -> None:
    assert or_none(integer, "F", "a", None, low=1) is None
    assert or_none(integer, "F", "a", 2, low=1) == 2


def test_the_class_of_the_owner_begins_the_message_and_long_values_are_cut() -> None:
    class Mine:
        pass

    with pytest.raises(ValueError, match=r"^Mine: expected a to be True or False, got '0+\.\.\.$") as caught:
        flag(Mine(), "a", "0" * 10_000)
    assert len(str(caught.value)) < 400
