"""What options there are, to find the one that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lsa_lightning.jobs.trainer import TRAINER_OPTIONS
from lsa_lightning.utils.paths import CONF_DIR

_MOST = 3
"""Options that are proposed."""

_CALLED_OTHERWISE = {
    "trainer.limit_test_batches": ["limit_batches", "limit_samples"],
    "attack": ["+attack@{stage}.attacks.NAME=NAME"],
}
"""Options of lsa-train that the commands that measure have under other names."""

_MEASURING = {"evaluate": "evaluation", "analyze": "analysis"}
"""The stage that a command consists of which trains nothing."""

_FORMER = {"threat.eval_eps": "evaluation.eps"}
"""Options that had other names before 0.1.0."""


def unknown(key: str, config_name: str, arguments: Sequence[str]) -> str:
    """What to say of a key that the composed configuration does not have.

    Args:
        key: the key.
        config_name: the file in conf that the command composes.
        arguments: what was typed.
    """
    if key in _FORMER:
        return f"there is no option {key} any more{did_you_mean([_FORMER[key]])}"
    if (of_training := _of_training(key, config_name)) is not None:
        return f"there is no option {key} here{of_training}"
    keys = list(dict.fromkeys([*_keys_of(composed(config_name, arguments)), *groups_of(config_name)]))
    if key.startswith("trainer.") and "trainer" in keys:
        keys = list(dict.fromkeys([*keys, *(f"trainer.{name}" for name in TRAINER_OPTIONS)]))
    groups = groups_of(config_name)
    elsewhere = [f"{option} has it" for option in _options_with(key) if option.partition("=")[0] in groups]
    meant = [] if elsewhere else _similar(key, keys)
    siblings = [each for each in keys if each.rpartition(".")[0] == key.rpartition(".")[0]]
    listed = f"; there are {', '.join(siblings)}" if siblings and not (meant or elsewhere) and "." in key else ""
    hint = did_you_mean(meant) or "".join(f"; {each}" for each in elsewhere[:_MOST])
    return f"there is no option {key} here{hint or listed or '; --help lists them'}"


def _of_training(key: str, config_name: str) -> str | None:
    """What a command that measures says of an option of lsa-train; None if it is none, or for lsa-train itself."""
    stage = _MEASURING.get(config_name)
    if stage is None:
        return None
    if key in _CALLED_OTHERWISE:
        return did_you_mean([each.format(stage=stage) for each in _CALLED_OTHERWISE[key]])
    group = key.partition(".")[0]
    is_foreign = (CONF_DIR / group).is_dir() and group not in nodes_of(config_name)
    return "; lsa-train has it" if is_foreign else None


def composed(config_name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration with the options that were chosen and without the values that were typed, uninterpolated."""
    chosen = (each for each in arguments if re.fullmatch(r"[a-z_/]+=[\w/-]+", each) and _is_group(each))
    return _composed(config_name, tuple(chosen))


def groups_of(config_name: str) -> list[str]:
    """The config groups that a command chooses from."""
    defaults = _written(config_name)["defaults"]
    chosen = [next(iter(entry)) for entry in defaults if isinstance(entry, dict)]
    return [group for group in chosen if not group.startswith("override ")]


def nodes_of(config_name: str) -> list[str]:
    """The uppermost entries that a command has."""
    return [*groups_of(config_name), *_written(config_name)]


def did_you_mean(meant: Sequence[str]) -> str:
    """``; did you mean ...?`` of the first few, or nothing."""
    return f"; did you mean {' or '.join(meant[:_MOST])}?" if meant else ""


def near(name: str, names: Iterable[str]) -> list[str]:
    """Names that look like ``name``."""
    return get_close_matches(name, list(names), n=_MOST, cutoff=0.61)


def who_has(wanted: str, reader: str) -> str:
    """The choices of a group that have the key ``wanted``, and what to change instead: the group of ``reader``."""
    group = wanted.partition(".")[0]
    key = re.sub(r"\[.*", "", wanted)
    found = [file.stem for file in _files_of(group) if _has(_nodes_of(file), key)]
    ways = f"choose {group}={' or '.join(found)}, or another " if found else "choose another "
    return f"; {ways}{reader.partition('.')[0]}"


@cache
def _written(config_name: str) -> dict[str, Any]:
    """The file of a command, as it is written."""
    text = (CONF_DIR / f"{config_name}.yaml").read_text(encoding="utf-8")
    written: dict[str, Any] = yaml.safe_load(text)
    return written


@cache
def _composed(config_name: str, chosen: tuple[str, ...]) -> dict[str, Any]:
    """The configuration with the options that were chosen, and no values; without them where they do not compose."""
    for overrides in (list(chosen), []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                composed = compose(config_name, overrides)
                return OmegaConf.to_container(composed, resolve=False)  # type: ignore[return-value]
        except (HydraException, OmegaConfBaseException):
            continue
    return {}


def _is_group(argument: str) -> bool:
    return (CONF_DIR / argument.partition("=")[0]).is_dir()


def _keys_of(node: Any, place: str = "") -> list[str]:
    """Dotted keys of all nodes and values."""
    if not isinstance(node, dict):
        return []
    keys = [f"{place}{key}" for key in node if not str(key).startswith("_")]
    deeper = [each for key, value in node.items() for each in _keys_of(value, f"{place}{key}.")]
    return [*keys, *deeper]


def _similar(key: str, keys: Sequence[str]) -> list[str]:
    """Keys that were meant: in the same node, else of the same name elsewhere, else of a similar name."""
    parent, _, name = key.rpartition(".")
    here = {each.rpartition(".")[2]: each for each in keys if each.rpartition(".")[0] == parent}
    if found := near(name, here):
        return [here[each] for each in found[:1]]
    if not parent and (same := sorted((each for each in keys if each.endswith(f".{name}")), key=_depth)):
        return same
    whole = near(key, keys) if parent else []
    ends = {each.rpartition(".")[2]: each for each in sorted(keys, key=_depth, reverse=True)}
    return whole or [ends[each] for each in near(name, ends)]


def _depth(key: str) -> tuple[int, int]:
    return key.count("."), len(key)


def _options_with(key: str) -> list[str]:
    """The choices that would bring the key."""
    group = key.partition(".")[0]
    return [f"{group}={file.stem}" for file in _files_of(group) if _has(_nodes_of(file), key) and "." in key]


def _files_of(group: str) -> list[Path]:
    return sorted((CONF_DIR / group).glob("*.yaml"))


def _nodes_of(file: Path) -> dict[str, Any]:
    """What a file puts where; a file without a package lies in the node of its group."""
    text = file.read_text(encoding="utf-8")
    nodes = yaml.safe_load(text) or {}
    return nodes if "@package _global_" in text else {file.parent.name: nodes}


def _has(node: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True
