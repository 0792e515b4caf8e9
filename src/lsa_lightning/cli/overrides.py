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


def _with_null_group(argument: str) -> str:
    group, equals, options = argument.partition("=")
    if not equals or not group.isidentifier() or not (CONF_DIR / group / "none.yaml").is_file():
        return argument
    return f"{group}={re.sub(r'(?<![^,])null(?![^,])', 'none', options)}"
