"""What may be typed on the command line beyond Hydra's own grammar."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lsa_lightning.jobs.cluster import EXTRA
from lsa_lightning.jobs.trainer import TRAINER_OPTIONS
from lsa_lightning.utils.paths import CONF_DIR

PLUGINS = {
    "cluster=joblib": "hydra_plugins.hydra_joblib_launcher",
    "cluster=submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "cluster=slurm": "hydra_plugins.hydra_submitit_launcher",
    "hparams_search=optuna": "optuna",
}
"""The module without which a choice cannot be made; all of them come with the extra [cluster]."""


def as_typed(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of lsa-train in Hydra's grammar, of what may be typed in ours; for one job, whatever starts it."""
    return with_listed_seeds(with_trainer_options(in_our_grammar(arguments)))


def in_our_grammar(arguments: Sequence[str]) -> list[str]:
    """The same for a command that trains nothing."""
    return with_quoted_paths(with_null_groups(arguments))


def with_flags_first(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with Hydra's flags before the overrides, between which argparse does not find them, each as one.

    Example:
        >>> with_flags_first(["seed=1", "--config-dir", "conf", "data=mine", "-m"])
        ['--config-dir=conf', '-m', 'seed=1', 'data=mine']
    """
    known = get_args_parser()._option_string_actions
    flags, others, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        action = known.get(argument)
        if not argument.startswith("-"):
            others.append(argument)
        elif action is None or action.nargs == 0 or not waiting or waiting[0] not in (action.choices or waiting):
            flags.append(argument)
        else:
            flags.append(f"{action.option_strings[0]}={waiting.pop(0)}")
    return [*flags, *others]


def check_plugins(arguments: Iterable[str]) -> None:
    """End the program in one line if a choice needs a package that is not installed."""
    for argument in arguments:
        if argument in PLUGINS and find_spec(PLUGINS[argument]) is None:
            sys.exit(f"lsa-train: {argument} needs more packages: {EXTRA}")


def with_swept_names(arguments: Sequence[str]) -> list[str]:
    """``arguments`` after which the folders of a sweep's jobs are named by what is swept, not by what they share.

    Example:
        >>> with_swept_names(["-m", "experiment=moon_at", "seed=0,1"])[1]
        'hydra.job.config.override_dirname.exclude_keys=["experiment"]'
    """
    overrides = {index: _parsed(argument) for index, argument in enumerate(arguments)}
    shared = {index: each for index, each in overrides.items() if each is not None and not each.is_sweep_override()}
    if not shared:
        return list(arguments)
    keys = ",".join(f'"{override.key_or_group}"' for override in shared.values())
    first = min(shared)  # among the overrides, not before the flags
    return [*arguments[:first], f"hydra.job.config.override_dirname.exclude_keys=[{keys}]", *arguments[first:]]


def _parsed(argument: str) -> Override | None:
    """None for what is no override: flags and their values, and what Hydra will refuse."""
    if argument.startswith("-") or not (argument.startswith("~") or "=" in argument):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


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


def with_trainer_options(arguments: Iterable[str]) -> list[str]:
    """``arguments`` in which every argument of the Trainer is an option, also those that ``conf/trainer`` leaves out.

    Example:
        >>> with_trainer_options(["trainer.limit_test_batches=2", "+trainer.benchmark=true", "trainer.max_epochs=3"])
        ['++trainer.limit_test_batches=2', '++trainer.benchmark=true', 'trainer.max_epochs=3']
    """
    listed = yaml.safe_load((CONF_DIR / "trainer" / "default.yaml").read_text(encoding="utf-8"))
    others = "|".join(name for name in TRAINER_OPTIONS if name not in listed)
    return [re.sub(rf"^\+{{0,2}}(trainer\.(?:{others})[.=])", r"++\1", argument) for argument in arguments]


def with_quoted_paths(arguments: Iterable[str]) -> list[str]:
    """``arguments`` in which paths may hold an ``=``, as the folders ``seed=0`` of a run do.

    Example:
        >>> with_quoted_paths(["ckpt_path=runs/seed=0/checkpoints/best.ckpt", "seed=0"])
        ["ckpt_path='runs/seed=0/checkpoints/best.ckpt'", 'seed=0']
        >>> with_quoted_paths(["ckpt_path=[runs/seed=0/best.ckpt, b.ckpt]"])
        ["ckpt_path=['runs/seed=0/best.ckpt','b.ckpt']"]
    """
    return [_PATHS.sub(_with_quotes, _PATH.sub(r"\1='\2'", argument)) for argument in arguments]


_PATH = re.compile(r"^(ckpt_path|data\.root|hydra\.(?:run|sweep)\.dir)=([^'\"\[{$,]*=[^'\"\[{$,]*)$")

_PATHS = re.compile(r"^(ckpt_path)=\[([^'\"\[\]{}$]*=[^'\"\[\]{}$]*)\]$")

_RANGE = re.compile(r"^seeds=range\(\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?(?:,\s*([1-9]\d*)\s*)?\)$")


def _with_quotes(match: re.Match[str]) -> str:
    paths = ",".join(f"'{path.strip()}'" for path in match[2].split(","))
    return f"{match[1]}=[{paths}]"


def _listed(match: re.Match[str]) -> str:
    numbers = range(*(int(group) for group in match.groups() if group is not None))
    return f"seeds=[{','.join(map(str, numbers))}]"


def _with_null_group(argument: str) -> str:
    group, equals, options = argument.partition("=")
    if not equals or not group.isidentifier() or not (CONF_DIR / group / "none.yaml").is_file():
        return argument
    return f"{group}={re.sub(r'(?<![^,])null(?![^,])', 'none', options)}"
