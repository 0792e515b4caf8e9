"""The run folder of a job: where it is, and how files are written to it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import platform
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.resolvers import oc

from lsa_lightning.utils.files import replacing, write_text
from lsa_lightning.utils.processes import Task, run_all

if TYPE_CHECKING:
    import pandas as pd

CONFIG_FILE = "config.yaml"
LONGEST_NAME = 120
"""Of a job's folder, in characters."""
HYDRA_FOLDER = ".hydra"
"""Where a run keeps its command line."""
SEED_FOLDERS = "seed=*"
"""Where seeds that are trained at once have their run folders, in that of all."""


def output_dir() -> Path:
    """The run folder that Hydra made for this job."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def typed_overrides() -> list[str]:
    """This job's overrides as they were typed; Hydra's own list gives ``attack=${attack}`` with what that refers to."""
    from hydra.core.hydra_config import HydraConfig

    return unresolved(HydraConfig.get().overrides.task)


def unresolved(overrides: Any) -> list[str]:
    """The overrides of a list of OmegaConf's, in which ``${...}`` is left as it is."""
    written: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(each) for each in written]


@cache
def new_folder(path: str) -> str:
    """``path``, or that with a number behind it, made for this process alone: others may begin in the same second."""
    for number in count():
        folder = Path(f"{path}_{number}" if number else path)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # Hydra says so
            break
        return str(folder)
    return path


def remove_if_unused(folder: Path) -> None:
    """Remove a run folder in which nothing but its command line and empty logs was written yet."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    kept = [path for path in files if path.parent.name != HYDRA_FOLDER]
    if folder.is_dir() and all(path.suffix == ".log" and path.stat().st_size == 0 for path in kept):
        shutil.rmtree(folder)


def group_of(name: str) -> str:
    """The group of this job in W&B: the sweep's folder, which jobs of different names share too, else ``name``."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    return Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else name


def job_folder(overrides: Sequence[str], left_out: Collection[str] = ()) -> str:
    """Name of a job's folder in its sweep: its overrides, in an order of their own and with the ends of their keys.

    It can be typed in a shell and in an override without quotes. Where that, or its length, costs characters, the end
    is a hash of them all, so that different overrides never share a name.

    Args:
        overrides: the job's.
        left_out: keys that all jobs have alike.

    Example:
        >>> job_folder(["seed=0", "regularizer.gamma=0.1", "trainer.max_epochs=5"], ["trainer.max_epochs"])
        'gamma-0.1+seed-0'
        >>> job_folder(["callbacks.atlr.mvl=[backbone.act3]"])
        'mvl-backbone.act3-98355901'
    """
    parted = (override.lstrip("+~").partition("=") for override in overrides)
    values = {key: value for key, _, value in parted if key not in left_out}
    ends = {key: re.split(r"[./]", key)[-1] for key in values}
    count = Counter(ends.values())
    names = {key if count[end] > 1 else end: values[key] for key, end in ends.items()}
    exact = "+".join(f"{key}-{value}" for key, value in sorted(names.items()))
    safe = "+".join(f"{_safe(key)}-{_safe(value)}" for key, value in sorted(names.items()))
    if safe == exact and len(safe) <= LONGEST_NAME:
        return safe or "job"
    return f"{safe[: LONGEST_NAME - 9]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _safe(text: str) -> str:
    """``text`` in letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")


def training_eps(callbacks: DictConfig | None) -> float | None:
    """Radius of the attack that crafts the training examples; None where training sees clean data alone."""
    attacks = (node.attack for node in (callbacks or {}).values() if node is not None and "attack" in node)
    return next((attack.eps for attack in attacks), None)


def number_of_classes(root: str) -> int:
    """Classes of a folder of images."""
    from lsa_lightning.data.folder import class_folders

    return len(class_folders(root))


# For the groups callbacks, data, evaluation, logger and model of conf, and train.yaml.
OmegaConf.register_new_resolver("lsa.training_eps", training_eps, replace=True)
OmegaConf.register_new_resolver("lsa.new_folder", new_folder, replace=True)
OmegaConf.register_new_resolver("lsa.job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("lsa.group", group_of, replace=True)
OmegaConf.register_new_resolver("lsa.n_classes", number_of_classes, replace=True)
OmegaConf.register_new_resolver("lsa.n_features", math.prod, replace=True)
OmegaConf.register_new_resolver("lsa.folder", lambda path: Path(path).name, replace=True)


def save_config(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Write the resolved configuration to ``folder`` and return it as plain containers.

    Text that is read from the environment stays as it was written, such as ``${oc.env:DATA}``: it may be a secret.
    """
    resolved: dict[str, Any] = resolved_but_for_environment(cfg)
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(resolved)))
    return resolved


def resolved_but_for_environment(node: DictConfig | ListConfig) -> Any:
    """``node`` as plain containers, in which every text that takes something from the environment is unresolved.

    Numbers are no secrets, and a run with another seed is another run.

    Example:
        >>> resolved_but_for_environment(OmegaConf.create({"root": "${oc.env:HOME}/data", "a": "${b}", "b": 1}))
        {'root': '${oc.env:HOME}/data', 'a': 1, 'b': 1}
    """
    reads: list[str] = []

    def read(key: str, *default: Any) -> str | None:
        reads.append(key)
        return oc.env(key, *default)

    OmegaConf.register_new_resolver("oc.env", read, replace=True)
    try:
        return _resolved(node, reads)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _resolved(node: DictConfig | ListConfig, reads: list[str]) -> Any:
    """See :func:`resolved_but_for_environment`; ``reads`` grows with every look into the environment."""
    before = len(reads)
    whole = OmegaConf.to_container(node, resolve=True)
    if len(reads) == before:
        return whole
    written: Any = OmegaConf.to_container(node, resolve=False)
    if isinstance(whole, dict):
        return {key: _resolved_child(node, key, written[key], reads) for key in whole}
    return [_resolved_child(node, index, written[index], reads) for index in range(len(node))]


def _resolved_child(node: DictConfig | ListConfig, key: Any, written: Any, reads: list[str]) -> Any:
    if OmegaConf.is_missing(node, key):
        return written
    before = len(reads)
    value = node[key]
    if len(reads) > before and not isinstance(value, bool | int | float):
        return written
    return _resolved(value, reads) if isinstance(value, DictConfig | ListConfig) else value


def save_command(cfg: DictConfig, folder: Path, overrides: Sequence[str] | None = None) -> None:
    """Write what the job was started with to ``.hydra``, as Hydra does, but only when it is known to be this job's.

    Args:
        cfg: the configuration, as it was composed.
        folder: the run folder.
        overrides: those that start this job; None: those of the command line.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra: Any = HydraConfig.get()
    if overrides is not None:
        hydra = copy.deepcopy(hydra)
        with read_write(hydra):
            hydra.overrides.task, hydra.runtime.output_dir = list(overrides), str(folder)
    whole = OmegaConf.create({"hydra": hydra})
    write_text(folder / HYDRA_FOLDER / "config.yaml", OmegaConf.to_yaml(cfg))
    write_text(folder / HYDRA_FOLDER / "hydra.yaml", OmegaConf.to_yaml(whole))
    write_text(folder / HYDRA_FOLDER / "overrides.yaml", OmegaConf.to_yaml(hydra.overrides.task))


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write ``figures/<name>.png`` and ``.svg``; the same figure gives the same files. See :func:`figures_of`."""
    from lsa_lightning.plotting.style import sign

    if run := _RUN.get():
        sign(figure, run)
    waiting = _WAITING.get()
    if waiting is None:
        _draw(figure, folder, name)
    else:
        waiting.append(partial(_draw, figure, folder, name))


@contextmanager
def figures_of(name: str, seed: int) -> Iterator[None]:
    """Inside, figures that are saved say which run they are of."""
    token = _RUN.set(f"run: {name}, seed {seed}")
    try:
        yield
    finally:
        _RUN.reset(token)


@contextmanager
def figures_together() -> Iterator[None]:
    """Inside, figures that are saved wait; at the end they are drawn on all processors."""
    waiting: list[Task] = []
    token = _WAITING.set(waiting)
    try:
        yield
    finally:
        _WAITING.reset(token)
    run_all(waiting)


_WAITING: ContextVar[list[Task] | None] = ContextVar("waiting", default=None)
_RUN: ContextVar[str] = ContextVar("run", default="")


def _draw(figure: Figure, folder: Path, name: str) -> None:
    with replacing(folder / "figures" / f"{name}.png") as png:
        figure.savefig(png)
    figure.set_layout_engine("none")  # its places stay; to find them again would take two fifths of drawing it again
    with replacing(folder / "figures" / f"{name}.svg") as svg:
        save_svg(figure, svg, name)


def save_svg(figure: Figure, file: Path | BinaryIO, name: str) -> None:
    """Write ``figure`` as SVG, which looks alike everywhere and is the same each time."""
    # Letters become paths; without a name of its own, ids would differ each time, as would the date.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, without its index."""
    write_text(path, table.to_csv(index=False))


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write plain containers as indented JSON."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        ValueError: if the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        msg = f"expected {path} to be readable, got {' '.join(str(error).split())}"
        raise ValueError(msg) from error
    return checked_mapping(values, path)


def checked_mapping(values: Any, path: Path) -> dict[str, Any]:
    """``values``, read from ``path``, if it is a mapping; else a ValueError."""
    if not isinstance(values, dict):
        msg = f"expected {path} to hold a mapping, got {type(values).__name__}"
        raise ValueError(msg)
    return values


def versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    packages = ("lsa-lightning", "torch", "lightning", "torchmetrics", "hydra-core", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
