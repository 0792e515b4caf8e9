"""Signals that end a job: the step is finished and saved first, and a cluster's queue takes the job back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""What a cluster, or a user, ends a job with."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What a cluster announces the end of a job's time with, so as to queue it again; SIGTERM also comes from scancel."""

_SAME = 1.0
"""Seconds within which a second signal is the first one, sent twice: srun passes on what its tasks get anyway."""


class Stopped(SystemExit):
    """A signal ended the job; its exit status is 130 after Ctrl-C, else 143.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        super().__init__(130 if signum == signal.SIGINT else 143)

    def __str__(self) -> str:
        return self.signal.name


class Signals:
    """Turns signals into :class:`Stopped`, at once or, while ``held``, when somebody asks; restores handlers at exit.

    Another signal, more than a second later, ends the process at once.

    Args:
        waits: number of the process that this one was started by; without it, nobody wants the results, and that counts
            as a SIGTERM to those who ask. None: it is not looked at.

    Attributes:
        received: the signal that came, or None.

    Example:
        >>> with Signals() as signals:
        ...     signals.hold()
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.received.name
        'SIGTERM'
    """

    def __init__(self, waits: int | None = None) -> None:
        self.received: signal.Signals | None = None
        self._waits = waits
        self._held = False
        self._at = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._former = {signum: signal.getsignal(signum) for signum in CAUGHT}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._former.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    def install(self) -> None:
        """Take the signals, also back from the Trainer; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            for signum in CAUGHT:
                signal.signal(signum, self._handle)

    def hold(self) -> None:
        """From here on, a signal waits."""
        self._held = True

    def release(self) -> None:
        """From here on, a signal stops at once, as does one that has waited.

        Raises:
            Stopped: if one has.
        """
        self._held = False
        self.check()

    def check(self) -> None:
        """Stop, if a signal has come.

        Raises:
            Stopped: if so.
        """
        if self.received is None and self._waits not in (None, os.getppid()):
            self.received = signal.SIGTERM
        if self.received is not None:
            raise Stopped(self.received)

    def hand_on(self, requeue: Callable[[], None] | None = None) -> None:
        """After everything is saved: let the queue start the job again, if it was the queue that warned of the end.

        In a job of submitit, submitit's own handler does it; in another SLURM job, ``scontrol requeue``.

        Args:
            requeue: instead of ``scontrol requeue``.
        """
        if self.received not in WARNINGS:
            return
        former = self._former.get(self.received)
        if "SUBMITIT_EXECUTOR" in os.environ:
            if callable(former):
                former(self.received, None)
        elif _in_batch_job():
            (requeue or _requeue)()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._at > _SAME:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self.received, self._at = signal.Signals(signum), time.monotonic()
        if not self._held:
            self.check()


def _in_batch_job() -> bool:
    """Whether SLURM started this from a script, and not from a shell that a user sits at."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def _requeue() -> None:
    """Ask SLURM to start this job again; it ends this one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{task}"
    if os.environ.get("SLURM_PROCID", "0") == "0" and re.fullmatch(r"[0-9_]+", job):
        subprocess.run(["scontrol", "requeue", job], check=False)  # noqa: S607  (it says itself what is wrong)
