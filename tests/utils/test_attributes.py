"""Attributes that are put back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from lsa_lightning.utils.attributes import Attributes, attributes_put_back


class Meter:
    def __init__(self) -> None:
        self.sum, self.count, self.history = 0.0, 0, [1]


class Keeps(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.kept = value


def grow(module: Keeps) -> None:
    """Change what it keeps, at any depth, in place where that is possible."""
    kept = module.kept
    if isinstance(kept, defaultdict):
        kept["a"].append(3)
    elif isinstance(kept, Counter):
        kept["a"] += 1
    elif isinstance(kept, dict):
        kept["train"].append(3)
        kept["new"] = 1
    elif isinstance(kept, set):
        kept.add(3)
    elif isinstance(kept, deque | list):
        kept.append(3)
    elif isinstance(kept, Meter):
        kept.sum, kept.count = 1.0, 1
        kept.history.append(2)
    elif isinstance(kept, tuple):
        kept[0].append(3)
        module.kept = (kept[0],)
    else:
        module.kept = 2
    module.new = "new"  # type: ignore[assignment]


def told(value: Any) -> Any:
    return vars(value) if isinstance(value, Meter) else value


VALUES: dict[str, Any] = {
    "number": lambda: 1,
    "list": lambda: [1],
    "tuple": lambda: ([1], 2),
    "dict of lists": lambda: {"train": [1], "val": []},
    "ordered": lambda: OrderedDict(b=[1], train=[0]),
    "defaultdict": lambda: defaultdict(list, a=[1]),
    "counter": lambda: Counter("aab"),
    "set": lambda: {1},
    "deque": lambda: deque([1, 2], maxlen=2),
    "meter": Meter,
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("fails", [False, True])
def test_it_is_as_before(name: str, fails: bool) -> None:
    part, expected = Keeps(VALUES[name]()), VALUES[name]()
    model, kept = nn.Sequential(nn.Sequential(part)), part.kept
    with pytest.raises(RuntimeError) if fails else nullcontext(), attributes_put_back(model):
        grow(part)
        assert told(part.kept) != told(expected)
        if fails:
            raise RuntimeError
    assert part.kept is kept
    assert told(kept) == told(expected)
    assert type(kept) is type(expected)
    assert not hasattr(part, "new")


def test_tensors_are_the_same_ones() -> None:
    part = Keeps(before := torch.zeros(2))
    with attributes_put_back(part):
        part.kept = torch.ones(2)
    assert part.kept is before


def test_what_holds_more_is_left_alone() -> None:
    class Holds:
        def __init__(self) -> None:
            self.count, self.model = 0, nn.Linear(1, 1)

    part = Keeps(Holds())
    with attributes_put_back(part):
        part.kept.count = 1
    assert part.kept.count == 1


def test_a_container_that_holds_itself_ends() -> None:
    kept: list[Any] = []
    kept.append(kept)
    part = Keeps(kept)
    with attributes_put_back(part):
        kept.append(1)
    assert len(kept) == 1


class Frozen(OrderedDict[str, Any]):
    """A dict with rules of its own, as outputs of transformers have."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError

    def clear(self) -> None:
        raise TypeError


def test_containers_with_rules_of_their_own_are_kept_as_they_are() -> None:
    part = Keeps(before := Frozen(a=1))
    with attributes_put_back(part):
        part.kept = Frozen(a=2)
    assert part.kept is before
    assert dict(before) == {"a": 1}


def test_of_many_entries_none_is_looked_into() -> None:
    part = Keeps([[0] for _ in range(101)])
    with attributes_put_back(part):
        part.kept[0].append(1)
        part.kept.append([2])
    assert (len(part.kept), part.kept[0]) == (101, [0, 1])


def test_modules_in_containers_are_found_at_any_depth() -> None:
    layers = [nn.Linear(1, 1), nn.ReLU()]
    deep: Any = layers
    for _ in range(2000):
        deep = [deep]
    assert Attributes([Keeps({"a": (deep,)})]).modules == layers[::-1]


def test_a_module_with_parametrizations_of_its_own_is_no_layer_of_torch() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.seen = nn.Parameter(torch.ones(2)), 0

    part = Counts()
    nn.utils.parametrizations.weight_norm(part)
    with attributes_put_back(part):
        part.seen = 1
    assert part.seen == 0


def test_what_becomes_a_part_stays_one() -> None:
    class MadeLater(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part: nn.Module | None = None

    module = MadeLater()
    with attributes_put_back(module):
        module.part = made = nn.Linear(1, 1)
    assert module.part is made
