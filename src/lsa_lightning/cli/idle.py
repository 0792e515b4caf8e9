"""Options that a user chose, and that nothing in the composed configuration reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.cli.options import did_you_mean, near
from lsa_lightning.runs.console import show
from lsa_lightning.runs.kinds import JOB
from lsa_lightning.utils.paths import CONF_DIR

READ_BY_OTHERS = ("attack", "objective", "regularizer", "measure", "optimizer", "scheduler", "data_stats", "threat")
"""Nodes that a job makes nothing of by itself: what it makes objects from refers to them, or they do nothing."""

_REFERENCE = re.compile(r"\$\{\s*(?:oc\.select\s*:)?\s*(\w[\w.]*)")


def check_all_do_something(cfg: DictConfig) -> None:
    """Refuse overrides of this job that do nothing; in a sweep or a resumed run, only say so.

    Raises:
        ValueError: with what would read them.
    """
    hydra = HydraConfig.get()
    idle = idle_overrides(cfg, hydra.overrides.task)
    if not idle:
        return
    reasons = dict.fromkeys(_who_reads(node, map(str, cfg)) for node in idle.values())
    msg = f"{', '.join(idle)} would do nothing: {'; '.join(reasons)}"
    if hydra.mode == RunMode.MULTIRUN or cfg.get("resume") is not None:
        show(f"Note: {msg}")
    else:
        raise ValueError(msg)


def idle_overrides(cfg: DictConfig, overrides: Iterable[str]) -> dict[str, str]:
    """Those that change what no object of the job is made from, and the node that each is about.

    Example:
        >>> cfg = OmegaConf.create({"model": {"rate": "${optimizer.lr}"}, "optimizer": {"lr": 1}, "attack": {"eps": 1}})
        >>> idle_overrides(cfg, ["optimizer.lr=1", "attack.eps=1"])
        {'attack.eps=1': 'attack'}
    """
    reached = _reached(OmegaConf.to_container(cfg, resolve=False))
    idle = {}
    for override in OverridesParser.create().parse_overrides([*overrides]):
        key = override.key_or_group
        node = re.split(r"[.@/]", key)[0]
        new = override.is_add() and key == node  # what a job reads by itself is there without a +
        if (new or node in READ_BY_OTHERS) and not any(_overlap(key, path) for path in reached):
            idle[str(override.input_line)] = node
    return idle


def _reached(config: Any) -> set[str]:
    """Dotted keys of all that a job's objects are made from."""
    reached: set[str] = set()
    waiting = list(JOB)
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += _references(_select(config, path))
    return reached


def _select(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _references(node: Any) -> Iterator[str]:
    """Keys that the interpolations in ``node`` name, however deep."""
    if isinstance(node, str):
        yield from _REFERENCE.findall(node)
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _references(child)


def _overlap(key: str, path: str) -> bool:
    """Whether one lies in the other."""
    return f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}.")


def _who_reads(node: str, others: Iterable[str]) -> str:
    """The options that refer to a node; if there are none, what else may be meant."""
    readers: dict[str, list[str]] = {}
    for file in sorted(CONF_DIR.glob("*/*.yaml")):
        names = {path.split(".")[0] for path in _REFERENCE.findall(file.read_text(encoding="utf-8"))}
        if node in names and file.parent.name != node:
            readers.setdefault(file.parent.name, []).append(file.stem)
    if not readers:
        groups = (path.name for path in CONF_DIR.iterdir() if path.is_dir())
        return f"nothing reads {node}{did_you_mean(near(node, {*others, *groups} - {node}))}"
    ways = [f"{group}={' or '.join(names)}" for group, names in readers.items()]
    return f"nothing that was chosen reads {node}; {', '.join(ways)} would"
