"""A representation is copied where a pass overwrites it, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lsa_lightning.layers.copies import Copies

LAYER = "fc"


def keep(copies: Copies, overwrite: Callable[[Tensor], object]) -> tuple[bool, list[str]]:
    """Whether a pass copies what ``overwrite`` then gets, and what it says is lost."""
    representation = torch.ones(2, 3)
    kept = copies.of_pass()
    found = kept(LAYER, representation)
    overwrite(representation)
    return found is not representation, kept.overwritten()


def leave(representation: Tensor) -> None:
    """Nothing is written."""


def write(representation: Tensor) -> None:
    representation.add_(1)


def test_a_layer_is_copied_once_and_then_no_more() -> None:
    copies = Copies()
    assert [keep(copies, leave) for _ in range(3)] == [(True, []), (False, []), (False, [])]


@pytest.mark.parametrize(
    "overwrite",
    [
        write,
        lambda representation: representation[0].zero_(),
        lambda representation: representation.clamp_(min=0),  # whose values stay, this time
        lambda representation: representation.data.mul_(2),
        lambda representation: representation.detach().view(-1).neg_(),
        lambda representation: representation.untyped_storage().resize_(0),
    ],
)
def test_what_is_overwritten_is_copied_each_time(overwrite: Callable[[Tensor], object]) -> None:
    copies = Copies()
    assert [keep(copies, overwrite) for _ in range(3)] == [(True, [])] * 3


def test_what_is_overwritten_for_the_first_time_is_lost_and_copied_from_then_on() -> None:
    copies = Copies()
    keep(copies, leave)
    assert keep(copies, write) == (False, [LAYER])
    assert [keep(copies, each) for each in (leave, write)] == [(True, [])] * 2


def test_what_one_pass_overwrites_is_copied_whatever_another_shows() -> None:
    copies, representation = Copies(), torch.ones(2, 3)
    around = copies.of_pass()
    around(LAYER, torch.ones(2, 3))
    inside = copies.of_pass()
    inside(LAYER, representation)
    representation.add_(1)
    assert inside.overwritten() == around.overwritten() == []
    assert copies.of_pass()(LAYER, representation) is not representation


def test_other_layers_have_nothing_to_do_with_it() -> None:
    copies = Copies()
    keep(copies, write)
    representation = torch.ones(2, 3)
    for copied in (True, False):
        kept = copies.of_pass()
        assert (kept("other", representation) is not representation) == copied
        assert kept.overwritten() == []


def test_nan_is_no_reason_to_take_it_for_something_else() -> None:
    copies, representation = Copies(), torch.full((2, 3), torch.nan)
    for _ in range(2):
        kept = copies.of_pass()
        assert kept(LAYER, representation).isnan().all()
        assert kept.overwritten() == []


def test_a_tensor_that_does_not_count_what_is_written_is_always_copied() -> None:
    copies = Copies()
    with torch.inference_mode():
        uncounted = torch.ones(2, 3)
    for _ in range(3):
        assert copies.of_pass()(LAYER, uncounted) is not uncounted

    def inside(x: Tensor) -> Tensor:
        kept = copies.of_pass()
        assert kept(LAYER, x) is not x
        assert kept.overwritten() == []
        return x.sum()

    for _ in range(3):
        torch.func.grad(inside)(torch.ones(3))
