from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from tests.helpers.modules import ForeignModule

from lsa_lightning.steps.patch import Wrapper, patch_training_step


class Counting(ForeignModule):
    def training_step(self, batch: str) -> str:
        return batch


def adding(mark: str) -> Wrapper:
    def wrapper(step: Any, batch: str, *args: Any) -> str:
        return step(batch + mark, *args)

    return wrapper


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_patches_stack_and_leave_in_any_order(order: tuple[int, ...]) -> None:
    module = Counting()
    removals = [patch_training_step(module, adding(mark)) for mark in "abc"]
    assert module.training_step("") == "cba"
    left = set("abc")
    for index in order:
        removals[index]()
        left.discard("abc"[index])
        assert set(module.training_step("")) == left
    assert "training_step" not in vars(module)


def test_removing_twice_does_nothing() -> None:
    module = Counting()
    outer = patch_training_step(module, adding("a"))
    remove = patch_training_step(module, adding("b"))
    remove()
    remove()
    assert module.training_step("") == "a"
    outer()


def test_somebody_elses_wrapper_on_top_survives() -> None:
    module = Counting()
    remove = patch_training_step(module, adding("a"))
    ours = module.training_step
    module.training_step = lambda batch: ours(batch) + "!"  # type: ignore[method-assign]
    remove()
    assert module.training_step("x") == "x!"


def test_a_wrapper_that_was_there_before_comes_back() -> None:
    module = Counting()
    theirs = lambda batch: batch + "!"  # noqa: E731
    module.training_step = theirs  # type: ignore[method-assign]
    patch_training_step(module, adding("a"))()
    assert vars(module)["training_step"] is theirs


def copied(module: Counting) -> Counting:
    return copy.deepcopy(module)


def pickled(module: Counting) -> Counting:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copied, pickled])
def test_a_copy_has_its_own_step_without_the_patches(copied: Callable[[Counting], Counting]) -> None:
    module = Counting()
    removals = [patch_training_step(module, adding(mark)) for mark in "ab"]
    other = copied(module)
    assert other.training_step("x") == "x"
    assert other.training_step.__self__ is other
    assert copied(other).training_step("x") == "x"
    for remove in removals:
        remove()
    assert other.training_step("x") == "x"


def test_a_copy_keeps_a_wrapper_that_was_there_before() -> None:
    module = Counting()
    theirs = lambda batch: batch + "!"  # noqa: E731
    module.training_step = theirs  # type: ignore[method-assign]
    patch_training_step(module, adding("a"))
    patch_training_step(module, adding("b"))
    assert copy.deepcopy(module).training_step("x") == "x!"


def test_the_signature_is_that_of_the_module() -> None:
    module = Counting()
    patch_training_step(module, adding("a"))
    patch_training_step(module, adding("b"))
    assert list(inspect.signature(module.training_step).parameters) == ["batch"]
    assert module.training_step.__name__ == "training_step"
