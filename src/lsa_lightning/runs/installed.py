"""Packages that a configuration names, and that are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_EXTRAS = {
    "torchattacks": "attacks",
    "foolbox": "attacks",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "gradio": "demo",
    "huggingface_hub": "hub",
}
_NEEDS = {
    "lightning.pytorch.loggers.TensorBoardLogger": "tensorboard",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
    "lsa_lightning.runs.loggers.JobMLFlowLogger": "mlflow",
}
"""Packages that a class needs which is not in them."""


def check_installed(node: Any, place: str) -> None:
    """Raise a ValueError if an object in ``node``, plain containers, is from a package that is not installed.

    Args:
        node: a part of a resolved configuration.
        place: its dotted key.

    Example:
        >>> check_installed({"backbone": {"_target_": "no_such_package.Net"}}, "model")
        Traceback (most recent call last):
        ValueError: model.backbone: expected no_such_package to be installed, for ...: pip install no_such_package
    """
    for where, target in _targets(node, place):
        require_installed(target, where)
        if target in _NEEDS:
            _require(_NEEDS[target], target, where)


def require_installed(target: str, place: str) -> None:
    """Raise a ValueError if the package of ``target``, named at ``place``, is not installed; it is not imported."""
    _require(target.partition(".")[0], target, place)


def _require(package: str, target: str, place: str) -> None:
    if package in sys.modules or find_spec(package) is not None:
        return
    extra = _EXTRAS.get(package)
    name = package if extra is None else f'"lsa-lightning[{extra}]"'
    msg = f"{place}: expected {package} to be installed, for {target}: pip install {name}"
    if extra is None and (Path(package).is_dir() or Path(f"{package}.py").is_file()):
        msg = f"{place}: expected {package} to be found, for {target}; it is in this folder, so begin with PYTHONPATH=."
    raise ValueError(msg)


def _targets(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Place and name of every object that ``node`` names, however deep."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        inner = node.items()
        if isinstance(node.get("_target_"), str):
            yield place, node["_target_"]
    elif isinstance(node, list):
        inner = enumerate(node)
    for key, child in inner:
        yield from _targets(child, f"{place}.{key}")
