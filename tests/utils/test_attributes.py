"""Attributes that are put back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from lsa_lightning.utils.attributes import attributes_put_back, kept_by


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
    assert [type(each) for each in kept_by(part)] == [list]
