"""How the commands start, and how they end after an error: in one line."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal import utils as hydra_start
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from lsa_lightning import __version__
from lsa_lightning.cli.errors import explained, is_for_users
from lsa_lightning.cli.overrides import with_flags_first
from lsa_lightning.jobs.cluster import start_processes_as_usual
from lsa_lightning.runs.folder import output_dir, remove_if_unused

log = logging.getLogger(__name__)


def run(
    command: str, main: Callable[[], Any], config_name: str, as_typed: Callable[[Sequence[str]], list[str]] = list
) -> None:
    """Start a function of ``hydra.main`` with what was typed.

    Args:
        command: its name in messages.
        main: the function.
        config_name: the file in conf that it composes.
        as_typed: makes Hydra's grammar of ours.

    Raises:
        SystemExit: after an error, with one line; the traceback is shown with ``HYDRA_FULL_ERROR=1`` or ``debug=...``.
    """
    arguments = with_flags_first(sys.argv[1:])
    if "--version" in arguments:
        print(f"lsa-lightning {__version__}")
        return
    if shows_tracebacks():
        sys.argv[1:] = as_typed(arguments)
        main()
        return
    with _errors_of_hydra_let_through():
        try:
            _check_flags(arguments)
            sys.argv[1:] = as_typed(arguments)
            main()
        except Exception as error:  # noqa: BLE001  # the traceback is one setting away
            _end(command, config_name, error)


@contextmanager
def job_of(command: str, config_name: str) -> Iterator[None]:
    """Around one job: an error in it ends the program in one line, or, in a sweep, is the job's result.

    The traceback of an error that is no message to users is in the log of the run folder.
    """
    start_processes_as_usual()
    try:
        yield
    except Exception as error:
        if shows_tracebacks():
            raise
        if not is_for_users(error):
            log.exception("The job failed:", extra={"shown": True})  # on no terminal
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra ends the sweep with the first that failed, and no other
            job = HydraConfig.get().job
            line = _line(command, config_name, error)
            sys.stderr.write(f"{command}: job {job.num} of the sweep, {job.override_dirname}: {line}\n")
            raise
        remove_if_unused(output_dir())
        _end(command, config_name, error)


def _end(command: str, config_name: str, error: Exception) -> NoReturn:
    """End the program in one line, with exit status 1."""
    sys.stderr.write(f"{command}: {_line(command, config_name, error)}\n")
    raise SystemExit(1) from error


def _line(command: str, config_name: str, error: Exception) -> str:
    return explained(error, config_name, sys.argv[1:]).removeprefix(f"{command}: ")


def shows_tracebacks() -> bool:
    """Whether errors are to be shown in full."""
    debugs = any(re.match(r"\+{0,2}debug=(?!null$|none$)", argument) for argument in sys.argv[1:])
    return debugs or os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def _errors_of_hydra_let_through() -> Iterator[None]:
    """Hydra 1.3 prints errors in several lines and ends the program; inside, it raises them."""
    original = hydra_start.run_and_report
    hydra_start.run_and_report = lambda func: func()
    try:
        yield
    finally:
        hydra_start.run_and_report = original


def _check_flags(arguments: Sequence[str]) -> None:
    """Raise a ValueError for an option with dashes that Hydra does not have."""
    parser = hydra_start.get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.allow_abbrev = False
    _, unknown = parser.parse_known_args(arguments)
    for argument in unknown:
        if argument.startswith("-"):
            name, _, value = argument.lstrip("-").partition("=")
            msg = f"expected options without dashes, {name}={value or 'VALUE'}, got {argument}"
            raise ValueError(msg)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
