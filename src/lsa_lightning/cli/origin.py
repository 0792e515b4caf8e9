"""Which of the options that were typed a value of the configuration comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

REFERENCE = re.compile(r"\$\{\s*(?:oc\.select\s*:)?\s*(\w[\w.]*)")
"""The key that an interpolation names, or asks for."""


def typed_origin(config: Any, key: str, typed: Collection[str]) -> str | None:
    """The key among ``typed`` that ``key`` is, lies in or refers to, over as many steps as it takes; None: none.

    Args:
        config: plain containers, with interpolations as they were written.
        key: dotted.
        typed: keys that a user gave values for.

    Example:
        >>> config = {"a": {"attack": "${attack}"}, "attack": {"eps": "${oc.select:threat.eps,1}"}}
        >>> typed_origin(config, "a.attack.eps", ["threat.eps"]), typed_origin(config, "a.attack.eps", ["threat.norm"])
        ('threat.eps', None)
    """
    waiting, seen = [key], set[str]()
    while waiting:
        path = waiting.pop(0)
        if path in typed:
            return path
        if path not in seen:
            seen.add(path)
            waiting += _one_step(config, path)
    return None


def _one_step(node: Any, path: str) -> Iterator[str]:
    """The keys that the first interpolation on the way to ``path`` leads to."""
    parts = path.split(".")
    for number, part in enumerate(parts):
        node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, str):
            for target in REFERENCE.findall(node):
                yield ".".join([target, *parts[number + 1 :]])
            return
