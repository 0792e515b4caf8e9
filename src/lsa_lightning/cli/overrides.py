"""What may be typed on the command line beyond Hydra's own grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lsa_lightning.utils.paths import CONF_DIR


def with_null_groups(arguments: Iterable[str]) -> list[str]:
    """``arguments`` in which ``GROUP=null`` leaves the group out: it becomes ``GROUP=none``.

    Hydra takes null for values, but not for config groups. Groups without an option ``none`` are left alone.

    Example:
        >>> with_null_groups(["-m", "analysis=null", "evaluation=null,default", "ckpt_path=null"])
        ['-m', 'analysis=none', 'evaluation=none,default', 'ckpt_path=null']
    """
    return [_with_null_group(argument) for argument in arguments]


def with_listed_seeds(arguments: Iterable[str]) -> list[str]:
    """``arguments`` in which ``seeds=range(...)`` is a list, which Hydra would take for a sweep, one job per seed.

    Example:
        >>> with_listed_seeds(["-m", "seeds=range(0,3)", "seed=range(0,3)"])
        ['-m', 'seeds=[0,1,2]', 'seed=range(0,3)']
    """
    return [_RANGE.sub(_listed, argument) for argument in arguments]


_RANGE = re.compile(r"^seeds=range\(\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?(?:,\s*([1-9]\d*)\s*)?\)$")


def _listed(match: re.Match[str]) -> str:
    numbers = range(*(int(group) for group in match.groups() if group is not None))
    return f"seeds=[{','.join(map(str, numbers))}]"


def _with_null_group(argument: str) -> str:
    group, equals, options = argument.partition("=")
    if not equals or not group.isidentifier() or not (CONF_DIR / group / "none.yaml").is_file():
        return argument
    return f"{group}={re.sub(r'(?<![^,])null(?![^,])', 'none', options)}"
