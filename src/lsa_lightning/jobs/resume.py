"""``lsa-train resume=RUN``: the command line that goes on with a run in its own folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.folder import CONFIG_FILE, HYDRA_FOLDER, SEED_FOLDERS, unresolved
from lsa_lightning.utils.paths import CONF_DIR


def with_resumed_run(arguments: Sequence[str]) -> list[str]:
    """``arguments`` in which ``resume=RUN`` becomes the overrides that RUN was started with, and RUN its folder.

    What stands beside it takes the place of RUN's own, and is checked against RUN's configuration when the job starts.
    RUN may be somebody else's: its overrides choose among our configurations and set values, which the job checks
    before it makes objects of them, but they neither name files nor change Hydra itself.

    Raises:
        SystemExit: if RUN is no run folder of lsa-train, its overrides do more than that, or a sweep is asked for.
    """
    asked = [match[1] for argument in arguments if (match := re.match(r"\+{0,2}resume=(.*)", argument, re.DOTALL))]
    if not asked:
        return list(arguments)
    folder = _run_folder(asked)
    flags = [argument for argument in arguments if argument.startswith("-")]
    others = [each for each in arguments if each not in flags and not re.match(r"\+{0,2}resume=", each)]
    if {"-m", "--multirun"} & set(flags) or any(_key(argument) in _PLACES for argument in others):
        msg = (
            "lsa-train: expected resume=RUN for one run, in its own folder, got a sweep or another folder beside it; "
            "a sweep goes on when its own command is given again with hydra.sweep.dir=SWEEP"
        )
        raise SystemExit(msg)
    _check_sources(folder, {_key(argument) for argument in (*flags, *others)})
    left_out = {*_SWEEPS, "resume", "trust", *(_key(argument) for argument in others)}
    former = [override for override in _former_overrides(folder) if not _is_left_out(override, left_out)]
    place, root = _quoted(str(folder.resolve())), _root_of_data(folder)
    if root is not None and not {"data", "data.root"} & left_out:
        former = [*(override for override in former if _key(override) != "data.root"), f"data.root={_quoted(root)}"]
    return [*flags, *former, f"hydra.run.dir={place}", *others, f"resume={place}"]


def _is_left_out(override: str, left_out: set[str]) -> bool:
    """Whether an override of the run gives way to what stands beside ``resume``, a group's own to another choice.

    Another choice of trainer says where a run goes on, and not how long it is.
    """
    key, group = _key(override), _group(override)
    return key in left_out or (group in left_out and (group != "trainer" or key in _PLACES_OF_TRAINER))


_PLACES_OF_TRAINER = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _root_of_data(folder: Path) -> str | None:
    """Where the run has its data: what its overrides say was relative to the folder that it was started in."""
    files = [folder / CONFIG_FILE, *sorted(folder.glob(f"{SEED_FOLDERS}/{CONFIG_FILE}"))]
    config: Any = OmegaConf.to_container(OmegaConf.load(next(file for file in files if file.is_file())), resolve=False)
    data = config.get("data") if isinstance(config, dict) else None
    root = data.get("root") if isinstance(data, dict) else None
    return root if isinstance(root, str) and "${" not in root else None


_SWEEPS = ("cluster", "hparams_search")
"""Config groups that say what is swept and where, which one run alone has no use for."""

_PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.mode")


def _run_folder(asked: Sequence[str]) -> Path:
    folder = Path(asked[0]).expanduser()
    configured = any(path.is_file() for path in (folder / CONFIG_FILE, *folder.glob(f"{SEED_FOLDERS}/{CONFIG_FILE}")))
    known = configured and (folder / HYDRA_FOLDER / "overrides.yaml").is_file()
    if len(asked) > 1 or not known:
        msg = (
            f"lsa-train: expected resume=RUN with one run folder of lsa-train, which holds {CONFIG_FILE} and "
            f"{HYDRA_FOLDER}/overrides.yaml, got {' and '.join(asked) or 'nothing'}"
        )
        raise SystemExit(msg)
    return folder


def _former_overrides(folder: Path) -> list[str]:
    """The overrides of the run."""
    overrides = unresolved(OmegaConf.load(folder / HYDRA_FOLDER / "overrides.yaml"))
    for override in overrides:
        group, option = _key(override).partition("@")[0], override.partition("=")[2]
        is_group = group.replace("/", "").isidentifier() and (CONF_DIR / group).is_dir()
        if "hydra" in _key(override) or (is_group and not _OPTION.fullmatch(option)):
            msg = f"lsa-train: {folder}: expected overrides of lsa-train's own configuration, got {override!r}"
            raise SystemExit(msg)
    return overrides


_OPTION = re.compile(r"\w[\w-]*(/\w[\w-]*)*|")
"""The name of a file in a group of ours, or nothing, as after ``~logger``."""


def _check_sources(folder: Path, given: set[str]) -> None:
    """Configurations from elsewhere are read again only where the command itself names them."""
    file = folder / HYDRA_FOLDER / "hydra.yaml"
    hydra = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    assert isinstance(hydra, DictConfig)
    sources = OmegaConf.select(hydra, "hydra.runtime.config_sources") or []
    needed = [f"--config-dir={each.path}" for each in sources if each.provider == "command-line"]
    needed += [
        str(each) for each in OmegaConf.select(hydra, "hydra.overrides.hydra") or [] if "searchpath" in str(each)
    ]
    if needed and not {"--config-dir", "hydra.searchpath"} & given:
        msg = f"lsa-train: {folder} was started with configurations from elsewhere; name them again: {' '.join(needed)}"
        raise SystemExit(msg)


def _key(override: str) -> str:
    """What an override is about.

    Example:
        >>> _key("++trainer.max_epochs=3"), _key("~logger")
        ('trainer.max_epochs', 'logger')
    """
    return override.lstrip("+~").partition("=")[0]


def _group(override: str) -> str:
    """The config group, or the uppermost node, that an override is about.

    Example:
        >>> _group("cluster.time=60")
        'cluster'
    """
    return _key(override).partition(".")[0]
