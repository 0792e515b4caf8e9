"""Errors in one line that says what to type."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from lsa_lightning.cli import options
from lsa_lightning.cli.origin import typed_origin
from lsa_lightning.runs.read import in_one_line
from lsa_lightning.utils.processes import RaisedElsewhereError

_FOR_USERS = (ValueError, OSError, ImportError, HydraException, OmegaConfBaseException, MisconfigurationException)


def is_for_users(error: Exception) -> bool:
    """Whether the message of an error is meant for whoever typed the command, and no sign of a broken program."""
    return isinstance(_root(error), _FOR_USERS)


def explained(error: Exception, config_name: str, arguments: Sequence[str]) -> str:
    """What was wrong, and what to type instead, in one line.

    Args:
        error: what a command ended with.
        config_name: the file in conf that the command composes.
        arguments: what was typed.
    """
    known: list[Callable[[Exception, str, Sequence[str]], str | None]] = [
        _no_such_option,
        _not_an_override,
        _no_such_key,
        _with_or_without_plus,
        _missing_value,
        _missing_reference,
        _failed_interpolation,
        _unusable_object,
        _of_the_system,
        _of_a_launcher,
    ]
    messages = (explain(error, config_name, arguments) for explain in known)
    message = next((message for message in messages if message is not None), None)
    if message is not None:
        return message
    return in_one_line(error) if is_for_users(error) else _of_a_program(error)


def _no_such_option(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    if not isinstance(error, MissingConfigException) or not error.options:
        return None
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    return (
        f"expected {group} to be one of {', '.join(error.options)}, got {name}"
        f"{options.did_you_mean([f'{group}={near}' for near in options.near(name, error.options)])}"
    )


def _not_an_override(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    text = str(error)
    if isinstance(error, OverrideParseException):
        override = error.override
        if "=" not in override:
            return f"expected KEY=VALUE, without spaces, got {override}"
        return f"expected KEY=VALUE, a list as 'KEY=[A,B]' in quotes of the shell, got {override}"
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'\n", text):
        return f"expected one value or a list, '{match[1]}=[{match[2]}]', got {match[0][30:-2]}; -m runs a job for each"
    return None


def _no_such_key(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    match = re.match(r"Could not (?:override|delete from config\.) '([^']+)'", str(error))
    return None if match is None else options.unknown(match[1], config_name, arguments)


def _with_or_without_plus(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    text = str(error)
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"expected {match[1]}=VALUE without +, since there is a {match[1]} to replace"
    if match := re.match(r"Multiple values for ([\w/@.]+)\. To override a value use 'override [^:]+: (.*)'", text):
        return f"expected {match[1]}={match[2]} without +, and once"
    if match := re.match(r"Could not append '?([\w/@.=]+)", text):
        return f"expected {match[1]} without +"
    return None


def _missing_value(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    match = re.search(r"Missing mandatory value: (\S+)", str(error))
    return f"expected {match[1]}=VALUE, got none" if match and isinstance(error, OmegaConfBaseException) else None


def _missing_reference(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    match = re.match(r"Interpolation key '([^']+)' not found", str(error))
    if not isinstance(error, InterpolationKeyError) or match is None:
        return None
    wanted, reader = match[1], str(error.full_key)
    return f"{reader} takes {wanted}, which is not in this configuration{options.who_has(wanted, reader)}"


def _failed_interpolation(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """What a resolver, which is given an option's value, has to say about it."""
    match = re.match(r"\w+ raised while resolving interpolation: (.*)", str(error))
    return match[1] if match and isinstance(error, InterpolationResolutionError) else None


def _unusable_object(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """An object that Hydra could not make: what its class says, and where it stands."""
    if not isinstance(error, InstantiationException):
        return None
    root, key = _root(error), re.search(r"full_key: (\S+)", str(error))
    where = "" if key is None else f"{_as_typed(key[1], root, config_name, arguments)}: "
    if match := re.match(r"Error locating target '([^']+)'", str(error)):
        return f"{where}expected _target_ to name a class or a function, got {match[1]}: {in_one_line(root)}"
    if isinstance(root, TypeError) and (match := re.match(r"(.*)\(\) (got an unexpected .*|missing .*)", str(root))):
        return f"{where}{match[1].removesuffix('.__init__')} {match[2]}"
    return f"{where}{in_one_line(root) if is_for_users(root) else _of_a_program(root)}"


def _as_typed(place: str, error: Exception, config_name: str, arguments: Sequence[str]) -> str:
    """The option that was typed, if it is what the refused argument of the object at ``place`` comes from."""
    argument = re.search(r"expected (\w+) to be", str(error))
    if argument is None:
        return place
    typed = {argument.lstrip("+").partition("=")[0] for argument in arguments if "=" in argument}
    return typed_origin(options.composed(config_name, arguments), f"{place}.{argument[1]}", typed) or place


def _of_the_system(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """A file or a folder that cannot be read or written."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    path = Path(str(error.filename))
    hint = "" if path.suffix else "; hydra.run.dir=FOLDER chooses a run folder"
    return f"cannot use {path}: {error.strerror}{hint}"


def _of_a_launcher(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """A job on a cluster that ended without a result, of which submitit shows all that it printed."""
    if type(error).__name__ != "UncompletedJobError":
        return None
    what, *printed = re.split(r"\n[^\n]*stream produced[^\n]*\n", str(error))
    last = "".join(f", whose last line is {text.strip().splitlines()[-1]!r}" for text in printed[:1])
    return f"{in_one_line(Exception(what))}{last}; what it printed lies beside that file; the same command goes on"


def _of_a_program(error: Exception) -> str:
    """An error that no check foresaw: its type, and the line of code that it comes from."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = error.__cause__.places if isinstance(error.__cause__, RaisedElsewhereError) else frames
    installed = tuple(str(Path(path).resolve()) for path in sys.path if path.endswith("site-packages"))
    own = [place for place in places if not place[0].startswith((*installed, "<"))] or list(places)
    place = " ({}:{})".format(*own[-1]) if own else ""
    what = f"{type(error).__name__}: {in_one_line(Exception(str(error)))}".rstrip(": ")
    return f"{what}{place}; HYDRA_FULL_ERROR=1 shows the traceback"


def _root(error: Exception) -> Exception:
    """What an error of Hydra's is about."""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
