"""Options that a user chose, and that nothing in the composed configuration reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.cli.options import did_you_mean, near, nodes_of, unknown
from lsa_lightning.cli.origin import REFERENCE
from lsa_lightning.runs.console import show
from lsa_lightning.runs.folder import typed_overrides
from lsa_lightning.runs.kinds import JOB
from lsa_lightning.utils.paths import CONF_DIR

READ_BY_OTHERS = ("attack", "objective", "regularizer", "measure", "optimizer", "scheduler", "data_stats", "threat")
"""Nodes that a job makes nothing of by itself: what it makes objects from refers to them, or they do nothing."""


def check_all_do_something(cfg: DictConfig) -> None:
    """Refuse overrides of this job that do nothing; in a sweep or a resumed run, only say so.

    Raises:
        ValueError: with what would read them.
    """
    hydra, typed = HydraConfig.get(), typed_overrides()
    idle = idle_overrides(cfg, typed)
    reasons = {override: _who_reads(node, map(str, cfg)) for override, node in idle.items()}
    reasons |= overruled(cfg, typed)
    if not reasons:
        return
    msg = f"{', '.join(reasons)} would do nothing: {'; '.join(dict.fromkeys(reasons.values()))}"
    if hydra.mode == RunMode.MULTIRUN or cfg.get("resume") is not None:
        show(f"Note: {msg}")
    else:
        raise ValueError(msg)


def check_all_known(config_name: str) -> None:
    """Refuse overrides that add what a command does not have, which it would not look at.

    Args:
        config_name: the file in conf that the command composes.

    Raises:
        ValueError: with the option that may be meant.
    """
    typed = typed_overrides()
    for override in OverridesParser.create().parse_overrides(typed):
        if _node(override) not in nodes_of(config_name):
            raise ValueError(unknown(override.package or override.key_or_group, config_name, typed))


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
        key, node = override.package or override.key_or_group, _node(override)
        new = override.is_add() and key == node  # what a job reads by itself is there without a +
        if (new or node in READ_BY_OTHERS) and not any(_overlap(key, path) for path in reached):
            idle[str(override.input_line)] = node
        if key == "method" and not any(_overlap(own, path) for own in _set_by_method(cfg) for path in reached):
            idle[str(override.input_line)] = "regularizer"
    return idle


def overruled(cfg: DictConfig, overrides: Iterable[str]) -> dict[str, str]:
    """Overrides of how layers are chosen, where something beside them says which; with what that is.

    Example:
        >>> cfg = OmegaConf.create({"analysis": {"eta": 1.0, "top_k": 2}})
        >>> overruled(cfg, ["analysis.eta=1.0", "analysis.top_k=2"])
        {'analysis.eta=1.0': 'analysis.top_k=2 takes the place of eta'}
    """
    found = {}
    for override in OverridesParser.create().parse_overrides([*overrides]):
        place, _, name = override.key_or_group.rpartition(".")
        node = OmegaConf.select(cfg, place) if name in ("eta", "top_k") else None
        if not isinstance(node, DictConfig) or override.is_delete() or node[name] is None:
            continue
        if node.get("mvl") is not None:
            found[str(override.input_line)] = f"{place}.mvl says which layers, without {name}"
        elif name == "eta" and node.get("top_k") is not None:
            found[str(override.input_line)] = f"{place}.top_k={node.top_k} takes the place of eta"
    return found


def _set_by_method(cfg: DictConfig) -> list[str]:
    """What a file of the group method is about; the measure, which analyses read too, does not make it a method."""
    return ["regularizer", *(f"method.{name}" for name in cfg.get("method") or {} if name != "name")]


def _node(override: Override) -> str:
    """The uppermost node that an override is about; of a group, the one that it is put into."""
    return re.split(r"[./]", override.package or override.key_or_group)[0]


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
        yield from REFERENCE.findall(node)
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
        names = {path.split(".")[0] for path in REFERENCE.findall(file.read_text(encoding="utf-8"))}
        if node in names and file.parent.name != node:
            readers.setdefault(file.parent.name, []).append(file.stem)
    if not readers:
        groups = (path.name for path in CONF_DIR.iterdir() if path.is_dir())
        return f"nothing reads {node}{did_you_mean(near(node, {*others, *groups} - {node}))}"
    ways = [f"{group}={' or '.join(names)}" for group, names in readers.items()]
    return f"nothing that was chosen reads {node}; {', '.join(ways)} would"
