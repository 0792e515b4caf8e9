"""One start of a job in its folder: whether it begins, goes on or is finished, and how it ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import OmegaConf
from rich.text import Text

from lsa_lightning.runs.console import show
from lsa_lightning.runs.folder import CONFIG_FILE
from lsa_lightning.runs.harmless import HARMLESS, ON_TRUST, is_in
from lsa_lightning.runs.signals import Signals, Stopped
from lsa_lightning.runs.status import State, Status
from lsa_lightning.runs.summary import SUMMARY_FILE
from lsa_lightning.utils.files import remove_parts

LAST = Path("checkpoints") / "last.ckpt"
"""The checkpoint that a job goes on from, in its folder."""

LATER = ("analysis", "evaluation", "trainer.max_epochs")
"""Entries that it may go on with otherwise, and that a finished job goes on for: they change what is still to come."""


@dataclass(frozen=True)
class Attempt:
    """What a job finds in its folder.

    Attributes:
        folder: the folder.
        former: the status that the attempt before left; None: there was none.
        changed: entries of the configuration that differ from the attempt before, as ``key: old, now new``.
    """

    folder: Path
    former: Status | None
    changed: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> Attempt:
        """Look into ``folder``; nothing is written.

        Raises:
            ValueError: if another process is training into it, or it holds a checkpoint or the results of another
                configuration, or of more epochs than are asked for, or metrics of something else.
        """
        if _is_first():
            _check_nobody_trains_into(folder)
        file = folder / CONFIG_FILE
        kept = [name for name in (str(LAST), SUMMARY_FILE) if (folder / name).is_file()]
        if not file.is_file():
            _check_no_foreign_metrics(folder)
            return cls(folder, None, ())
        if not kept:
            return cls(folder, Status.load(folder), ())
        old = OmegaConf.to_container(OmegaConf.load(file))
        changed = differences(old, config)  # type: ignore[arg-type]
        if refused := [words for key, words in changed.items() if not is_in(key, HARMLESS + LATER)]:
            msg = (
                f"expected {folder}, which holds {' and '.join(kept)}, to go on with its own configuration, got "
                f"another: {'; '.join(refused)}. Give another folder"
            )
            raise ValueError(msg)
        if on_trust := [words for key, words in changed.items() if key in ON_TRUST]:
            rank_zero_warn(
                f"{folder} goes on with {'; '.join(on_trust)}: expected the same data there, and batches of as many "
                "samples over all devices"
            )
        later = tuple(words for key, words in changed.items() if is_in(key, LATER))
        former = Status.load(folder)
        _check_epochs_left(config, folder, 0 if former is None else former.epoch)
        return cls(folder, former, later)

    @property
    def checkpoint(self) -> Path | None:
        """What to go on from; None: the job begins."""
        return self.folder / LAST if (self.folder / LAST).is_file() else None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.was_finished and not self.changed

    @property
    def was_finished(self) -> bool:
        """Whether the attempt before left nothing to do, if there was one."""
        ended = self.former is None or self.former.state == State.FINISHED
        return ended and (self.folder / SUMMARY_FILE).is_file()

    @property
    def runs(self) -> bool:
        """Whether its status, as it is now, says that the job is running."""
        now = Status.load(self.folder)
        return now is not None and now.state == State.RUNNING

    def note_epoch(self, epochs: int) -> None:
        """Say in the status how many epochs are finished."""
        self.note(State.RUNNING, epoch=epochs)

    def note(self, state: State, reason: str = "", epoch: int | None = None) -> None:
        """Write the status; without ``epoch``, as many epochs are finished as it said before."""
        if not _is_first():
            return
        now = Status.load(self.folder)
        epochs = (0 if now is None else now.epoch) if epoch is None else epoch
        attempts = 1 if self.former is None else self.former.attempts + 1
        Status(state, reason, epochs, attempts).save(self.folder)


def note_rank() -> None:
    """Tell Lightning which process of a job this is, where a launcher said so only after Lightning was imported.

    Lightning reads the environment when it is imported; until its Trainer has connected them, it would take each
    process for the first one, and all would write the same files.
    """
    if _is_first():
        rank_zero_only.rank = _get_rank() or 0  # type: ignore[attr-defined]


@contextmanager
def running(attempts: Sequence[Attempt], folder: Path) -> Iterator[Signals]:
    """Keep the status of jobs that one process runs: interrupted after a signal, failed after an error, else finished.

    One that is noted as finished before the others stays so.

    Args:
        attempts: the jobs.
        folder: what they go on from when it is given to ``lsa-train resume=``.

    Yields:
        The signals, which end the jobs.
    """
    if _is_first():
        remove_parts(folder)
    with Signals() as signals:
        try:
            with noted(attempts, signals):
                yield signals
        except BaseException as error:
            if isinstance(error, Stopped) or signals.received is not None:
                _print_how_to_resume(folder, _ending(error, signals)[1])
                signals.hand_on()
                signals.check()
            raise


@contextmanager
def noted(attempts: Sequence[Attempt], signals: Signals) -> Iterator[None]:
    """Keep the status of jobs, see :func:`running`; what another process has noted of one in the meantime stays."""
    for attempt in attempts:
        attempt.note(State.RUNNING)
    try:
        yield
    except BaseException as error:
        _note_those_that_run(attempts, *_ending(error, signals))
        raise
    _note_those_that_run(attempts, State.FINISHED)


def _ending(error: BaseException, signals: Signals) -> tuple[State, str]:
    """How a job ends by an error, and why."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, Stopped):
        return State.INTERRUPTED, str(error)
    if signals.received is not None:  # which ends worker processes too: the error may be its work
        return State.INTERRUPTED, f"{signals.received.name}; {what}"
    # Lightning makes the one of these two into the other.
    return State.INTERRUPTED if isinstance(error, KeyboardInterrupt | SystemExit) else State.FAILED, what


def _check_nobody_trains_into(folder: Path) -> None:
    """A launcher that was killed may have left its jobs behind: two processes would write into the same files."""
    status = Status.load(folder)
    if status is None or status.state != State.RUNNING or status.pid == os.getpid() or not status.is_alive:
        return
    msg = (
        f"expected {folder} to be nobody's, got one that process {status.pid} on {status.host} is training into (last "
        f"updated {status.updated}): wait until it has finished, or end it by `kill {status.pid}`, after which it saves"
    )
    raise ValueError(msg)


def _note_those_that_run(attempts: Sequence[Attempt], state: State, reason: str = "") -> None:
    for attempt in attempts:
        if attempt.runs:
            attempt.note(state, reason)


class NotedEpochs(pl.Callback):
    """Notes finished epochs in the status.

    Args:
        attempt: whose status.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One more."""
        self.attempt.note_epoch(trainer.current_epoch + 1)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """What sets two configurations apart, ``key: old, now new`` by dotted key; a folder that was moved does not.

    Example:
        >>> differences({"seed": 0, "a": {"b": 1}}, {"seed": 0, "a": {"b": 2}})
        {'a.b': 'a.b: 1, now 2'}
    """
    places = [str(config.get("paths", {}).get("output_dir")) for config in (old, new)]
    before, now = _leaves(old, places[0]), _leaves(new, places[1])
    keys = [key for key in {**before, **now} if before.get(key, _NOTHING) != now.get(key, _NOTHING)]
    return {key: f"{key}: {before.get(key, _NOTHING)}, now {now.get(key, _NOTHING)}" for key in keys}


_NOTHING = "nothing"


def _leaves(node: Any, place: str, key: str = "") -> dict[str, Any]:
    """Values by dotted key, in which the run folder has no place."""
    if isinstance(node, Mapping) and node:
        parts = (_leaves(value, place, f"{key}.{name}" if key else str(name)) for name, value in node.items())
        return {name: value for part in parts for name, value in part.items()}
    return {key: node.replace(place, "RUN") if isinstance(node, str) else node}


def _is_first() -> bool:
    """Whether this is the first process of the job."""
    return not getattr(rank_zero_only, "rank", 0)


def _check_no_foreign_metrics(folder: Path) -> None:
    if (folder / "metrics.csv").exists():
        msg = f"expected a folder without metrics, or a run folder with its {CONFIG_FILE}, got {folder / 'metrics.csv'}"
        raise ValueError(msg)


def _check_epochs_left(config: Mapping[str, Any], folder: Path, epochs: int) -> None:
    most = (config.get("trainer") or {}).get("max_epochs")
    if isinstance(most, int) and 0 <= most < epochs:
        msg = f"expected trainer.max_epochs >= {epochs}, as that many are finished in {folder}, got {most}"
        raise ValueError(msg)


@rank_zero_only
def _print_how_to_resume(folder: Path, reason: str) -> None:
    command = shlex.join(["lsa-train", f"resume={folder}"])
    show(Text(f"Stopped by {reason}\nRun folder: {folder}\nGo on with: {command}"))
