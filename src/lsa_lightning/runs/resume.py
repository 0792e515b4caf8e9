"""``lsa-train resume=RUN``: the command line that goes on with a run in its own folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.folder import CONFIG_FILE, HYDRA_FOLDER, SEED_FOLDERS


def with_resumed_run(arguments: Sequence[str]) -> list[str]:
    """``arguments`` in which ``resume=RUN`` becomes the overrides that RUN was started with, and RUN its folder.

    What stands beside it takes the place of RUN's own, and is checked against RUN's configuration when the job starts.

    Raises:
        SystemExit: if RUN is no run folder of lsa-train, or a sweep is asked for.
    """
    asked = [match[1] for argument in arguments if (match := re.match(r"\+{0,2}resume=(.*)", argument, re.DOTALL))]
    if not asked:
        return list(arguments)
    folder = _run_folder(asked)
    others = [argument for argument in arguments if not re.match(r"\+{0,2}resume=", argument)]
    if {"-m", "--multirun"} & set(others) or any(_key(argument) in _PLACES for argument in others):
        msg = (
            "lsa-train: expected resume=RUN for one run, in its own folder, got a sweep or another folder beside it; "
            "a sweep goes on when its own command is given again with hydra.sweep.dir=SWEEP"
        )
        raise SystemExit(msg)
    left_out = {*_SWEEPS, *(_key(argument) for argument in others)}
    former = [override for override in _former_overrides(folder) if not {_key(override), _group(override)} & left_out]
    place = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return [*former, f"hydra.run.dir='{place}'", *others]


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
    """The overrides of the run, and where its command line let Hydra look for configurations."""
    overrides = [str(override) for override in OmegaConf.load(folder / HYDRA_FOLDER / "overrides.yaml")]
    file = folder / HYDRA_FOLDER / "hydra.yaml"
    hydra = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    assert isinstance(hydra, DictConfig)
    hydras = OmegaConf.select(hydra, "hydra.overrides.hydra") or []
    found = [f"--config-dir={each.path}" for each in _sources(hydra) if each.provider == "command-line"]
    return [*found, *(str(each) for each in hydras if _key(each) == "hydra.searchpath"), *overrides]


def _sources(hydra: DictConfig) -> list[DictConfig]:
    return list(OmegaConf.select(hydra, "hydra.runtime.config_sources") or [])


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
