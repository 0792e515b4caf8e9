"""What a user means by the values of a configuration, from wherever they come: command line, files, sweeps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lsa_lightning.utils.checks import integer

_FRACTION = re.compile(r"\s*([+-]?\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*")


def take_as_meant(cfg: DictConfig, command: str) -> None:
    """Put into ``cfg``, before anything reads it, what is meant by its values.

    - A fraction of two numbers is a number, wherever it stands, such as ``8/255``.
    - One radius in ``evaluation.eps`` is a list of one.
    - ``data.root`` is absolute, so that the run can be measured from any folder.

    Interpolations stay as they are; what they lead to was changed.

    Args:
        cfg: the composed configuration of a job.
        command: names the command in messages.

    Raises:
        ValueError: for a division by 0, or a seed that is no integer >= 0.

    Example:
        >>> cfg = OmegaConf.create({"seed": 0, "threat": {"eps": "8/255"}, "evaluation": {"eps": 0.5}})
        >>> take_as_meant(cfg, "lsa-train")
        >>> round(cfg.threat.eps, 4), cfg.evaluation.eps
        (0.0314, [0.5])
    """
    integer(command, "seed", cfg.seed, low=0)
    _divide(cfg)
    evaluation, data = cfg.get("evaluation"), cfg.get("data")
    if evaluation is not None and isinstance(evaluation.get("eps"), int | float):
        evaluation.eps = [evaluation.eps]
    if data is not None and "root" in data and not OmegaConf.is_interpolation(data, "root") and data.get("root"):
        data.root = os.path.abspath(Path(data.root).expanduser())  # noqa: PTH100  # resolve() would follow links


def _divide(node: DictConfig | ListConfig) -> None:
    """Put numbers in the place of fractions, however deep."""
    keys: Any = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            _divide(value)
        elif isinstance(value, str) and (match := _FRACTION.fullmatch(value)):
            node[key] = _quotient(match[1], match[2], str(key))


def _quotient(above: str, below: str, name: str) -> float:
    if float(below) == 0:
        msg = f"expected {name} to be a number, got {above}/{below}"
        raise ValueError(msg)
    return float(above) / float(below)
