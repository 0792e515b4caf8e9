"""What a signal does to a job, and who starts it again."""

from __future__ import annotations

import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest

from lsa_lightning.runs.signals import CAUGHT, Signals, Stopped


@pytest.fixture(autouse=True)
def no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_PROCID", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("signum", CAUGHT)
def test_a_signal_stops_at_once_with_its_exit_status(signum: signal.Signals) -> None:
    with pytest.raises(Stopped) as stopped, Signals():
        signal.raise_signal(signum)
    assert stopped.value.code == (130 if signum == signal.SIGINT else 143)
    assert str(stopped.value) == signum.name


def test_while_held_a_signal_waits() -> None:
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped):
            signals.check()
        with pytest.raises(Stopped):
            signals.release()


def test_without_a_signal_nothing_stops() -> None:
    with Signals() as signals:
        signals.hold()
        signals.check()
        signals.release()


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(signum) for signum in CAUGHT]
    with Signals():
        assert [signal.getsignal(signum) for signum in CAUGHT] != before
    assert [signal.getsignal(signum) for signum in CAUGHT] == before


def test_a_signal_that_is_sent_twice_at_once_counts_once() -> None:
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once() -> None:
    lines = "import lsa_lightning.runs.signals as s, signal; s._SAME = 0.0; s = s.Signals().__enter__(); s.hold()"
    twice = "signal.raise_signal(signal.SIGTERM); signal.raise_signal(signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", f"{lines}; {twice}"], check=False)
    assert done.returncode == -signal.SIGTERM


def _stopped_by(signum: signal.Signals) -> Signals:
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(signum)
    return signals


def test_in_a_job_of_submitit_its_own_handler_requeues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    handler, requeue = Mock(), Mock()
    former = signal.signal(signal.SIGUSR2, handler)
    try:
        _stopped_by(signal.SIGUSR2).hand_on(requeue)
    finally:
        signal.signal(signal.SIGUSR2, former)
    handler.assert_called_once_with(signal.SIGUSR2, None)
    requeue.assert_not_called()


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_in_another_job_of_slurm_the_queue_is_asked(monkeypatch: pytest.MonkeyPatch, signum: signal.Signals) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run = Mock()
    monkeypatch.setattr(subprocess, "run", run)
    _stopped_by(signum).hand_on()
    run.assert_called_once_with(["scontrol", "requeue", "7"], check=False)


def test_a_task_of_an_array_is_requeued_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    run = Mock()
    monkeypatch.setattr(subprocess, "run", run)
    _stopped_by(signal.SIGUSR1).hand_on()
    run.assert_called_once_with(["scontrol", "requeue", "7_2"], check=False)


@pytest.mark.parametrize(
    ("signum", "job"),
    [
        (signal.SIGTERM, {"SLURM_JOB_ID": "7"}),  # of scancel, or of a preemption after which SLURM requeues
        (signal.SIGINT, {"SLURM_JOB_ID": "7"}),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"}),
        (signal.SIGUSR1, {}),
    ],
)
def test_nobody_requeues(monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, job: dict[str, str]) -> None:
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    requeue = Mock()
    _stopped_by(signum).hand_on(requeue)
    requeue.assert_not_called()
