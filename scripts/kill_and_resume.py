"""Kills lsa-train at random moments and inside the writing of each kind of file, resumes it, and compares the files.

    python -m scripts.kill_and_resume [--kills 20] [--full-disk 20] [--seed 0]

Trains model A on Moon for 3 epochs with ATLR and measures it, in a run folder that lies on another file system than the
folder of temporary files, if there is one. One run is left alone. Each of the others is ended once, in turn by SIGKILL,
SIGTERM and SIGUSR2, at a random moment, or by SIGKILL within the writing of a file, and started again by the same
command. Prints for each whether every file equals that of the undisturbed run but for times, and counts files that
could not be read after the kill, and wrong exit statuses and status files. With ``--full-disk``, it also runs on disks
that are full from a random moment on (a tmpfs where this user may mount one, else writes that fail as on one), and
counts results that were there before and are not after. Exits with 1 if a figure is not as it should be.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.helpers.faults import Counter, FullDisk, Killer, Write, plant
from tests.helpers.hydra_run import TINY
from tests.helpers.run_files import differing_files, unreadable_files

from lsa_lightning.cli.train import main as train
from lsa_lightning.runs.status import State, Status

RUN = (
    "experiment=moon_at_lr",
    *TINY,
    "attack.steps=3",
    "trainer.max_epochs=3",
    "data.train_size=256",
    "callbacks.last_checkpoint.every_n_steps=2",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
KINDS = ("last.ckpt", "best.ckpt", "metrics.csv", "status.json", "evaluation.jsonl", "summary.json", "profile_pgd.json")
"""Files within whose writing a run is killed: one of each kind of writer."""

KILLED = -signal.SIGKILL
FORK = multiprocessing.get_context("fork")  # importing everything anew takes longer than a run
SAID = Path(tempfile.gettempdir()) / f"kill_and_resume_{os.getpid()}.txt"
"""What the latest run printed."""
NOTE = SAID.with_suffix(".there")
"""The files that were there when the disk became full."""

AFTER_A_KILL = (KILLED, State.RUNNING)
AFTER_A_SIGNAL = (143, State.INTERRUPTED)


@dataclass
class Count:
    """What is counted over all kills."""

    same: int = 0
    unreadable: int = 0
    right: int = 0
    missed: int = 0


def main() -> None:
    """Run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--full-disk", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=_other_file_system()) as root:
        whole = Path(root) / "whole"
        writes = FORK.Value("i", 0)
        child = run(whole, Counter(writes))
        wait_for_the_start(child, whole)
        started = time.perf_counter()
        if finish(child) != 0:
            raise SystemExit(SAID.read_text())
        seconds = time.perf_counter() - started
        print(f"run folders in {root}, temporary files in {tempfile.gettempdir()}", flush=True)
        good = kills(args.kills, Path(root), whole, seconds, moments) if args.kills else True
        if args.full_disk:
            good &= full_disks(args.full_disk, Path(root), whole, writes.value, moments)
    SAID.unlink(missing_ok=True)
    NOTE.unlink(missing_ok=True)
    sys.exit(not good)


def kills(number: int, root: Path, whole: Path, seconds: float, moments: random.Random) -> bool:
    """Kill ``number`` runs, every third of them within the writing of a file; whether all went well."""
    count = Count()
    for index in range(number):
        folder = root / f"kill_{index}"
        within = index % 3 == 2
        signum = signal.SIGKILL if within else SIGNALS[index // 3 % 3]
        expected = AFTER_A_KILL if signum == signal.SIGKILL else AFTER_A_SIGNAL
        while True:
            kind = KINDS[index // 3 % len(KINDS)]
            what, code = _killed_in_writing(folder, kind) if within else _killed(folder, signum, seconds, moments)
            state = _state(folder)
            if code != 0 and state != State.FINISHED:
                break
            count.missed += 1  # the run was over before
            shutil.rmtree(folder)
        count.right += (code, state) == expected
        what += f", exit status {code}, {None if state is None else state.value}"
        _compare(folder, whole, what, count)
        shutil.rmtree(folder)
    print(f"{count.same} of {number} identical, {count.unreadable} unreadable files")
    print(f"exit status and status file right after {count.right} of {number} kills; {count.missed} too late, redone")
    return count.same == count.right == number and count.unreadable == 0


def wait_for_the_start(child: multiprocessing.process.BaseProcess, folder: Path) -> None:
    """Return when the job's status is there, or the process has ended."""
    while child.is_alive() and _state(folder) is None:
        time.sleep(0.01)


def _killed(folder: Path, signum: signal.Signals, seconds: float, moments: random.Random) -> tuple[str, int | None]:
    """End a run at a random moment after its start."""
    child, moment = run(folder), moments.uniform(0.0, seconds)
    wait_for_the_start(child, folder)
    if finish(child, moment) is None:
        os.kill(child.pid or 0, signum)
    return f"{signum.name} {moment:5.2f} s after the start", finish(child)


def _killed_in_writing(folder: Path, kind: str) -> tuple[str, int | None]:
    """End a run within a write: the second of what is written often, so that there is something to lose."""
    nth = 2 if kind in ("last.ckpt", "metrics.csv", "status.json", "evaluation.jsonl") else 1
    return f"SIGKILL within write {nth} of {kind}", finish(run(folder, Killer(kind, nth)))


def _state(folder: Path) -> State | None:
    status = Status.load(folder)
    return None if status is None else status.state


def _compare(folder: Path, whole: Path, what: str, count: Count) -> None:
    """Resume a run, compare it, print a line."""
    broken = [name for name in unreadable_files(folder) if ".part" not in name]
    code = finish(run(folder))
    different = differing_files(folder, whole)
    count.same += code == 0 and not different
    count.unreadable += len(broken) + len(unreadable_files(folder))
    words = ["identical" if not different else f"DIFFERENT: {', '.join(different)}"]
    words += [f"UNREADABLE: {', '.join(broken)}"] if broken else []
    words += [f"EXIT STATUS {code} when resumed"] if code else []
    print(f"{what}: {'; '.join(words)}", flush=True)


def full_disks(number: int, root: Path, whole: Path, writes: int, moments: random.Random) -> bool:
    """Run on ``number`` disks that become full at one of the writes, then with space; whether no result was lost."""
    lost = same = right = failures = 0
    for index in range(number):
        with small_disk(root / f"disk_{index}") as (disk, by_filling, free):
            folder = disk / "run"
            nth = moments.randint(2, writes)
            failed = finish(run(folder, FullDisk(disk, nth, by_filling, NOTE)))
            errors = SAID.read_text()
            there = [Path(name) for name in NOTE.read_text().splitlines()]
            lost_now = [str(path) for path in there if not path.is_file()] + unreadable_files(folder)
            status = Status.load(folder)
            named = "could not write this file" in errors and status is not None and status.state == State.FAILED
            well = failed == 0 or named
            free()
            code = finish(run(folder))
            different = differing_files(folder, whole)
        lost += len(lost_now)
        failures += failed != 0
        same, right = same + (code == 0 and not different), right + well
        words = "identical" if not different else f"DIFFERENT: {', '.join(different)}"
        problems = "" if well else f"; exit status {failed}, {status}, {errors[-300:]}"
        what = f"disk full at write {nth} of {writes}: exit status {failed}, {len(there)} files there before"
        print(f"{what}, lost {lost_now or 'none'}; {words}{problems}", flush=True)
    print(f"{lost} results lost on {number} full disks, {same} identical when resumed")
    print(f"{failures} runs failed, the others had written all; {right} of {number} ended as they should")
    return lost == 0 and same == right == number


@contextmanager
def small_disk(place: Path) -> Iterator[tuple[Path, bool, Callable[[], None]]]:
    """A file system of its own, whether it can be filled, and what frees it again."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    filler = place / "filler"
    try:
        if mounted.returncode:
            print(f"no tmpfs ({mounted.stderr.decode().strip()}): writes fail as on a full disk", flush=True)
        yield place, not mounted.returncode, lambda: filler.unlink(missing_ok=True)
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", place], check=True)  # noqa: S607


def run(folder: Path, fault: Write | None = None) -> multiprocessing.process.BaseProcess:
    """lsa-train in a process of its own, with a fault planted in it; what it says is beside the folders of all runs."""
    child = FORK.Process(target=_train, args=(folder, fault))
    child.start()
    return child


def finish(child: multiprocessing.process.BaseProcess, seconds: float | None = None) -> int | None:
    """The exit status of a process that ends in so many seconds, else None."""
    child.join(seconds)
    return child.exitcode


def _train(folder: Path, fault: Write | None) -> None:
    with SAID.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    if fault is not None:
        plant(fault)
    sys.argv = ["lsa-train", *RUN, f"hydra.run.dir={folder}"]
    train()


def _other_file_system() -> str | None:
    """A folder for run folders on another file system than that of temporary files; None: there is none."""
    here = Path(tempfile.gettempdir()).stat().st_dev
    places = (Path("/dev/shm"), Path.cwd(), Path.home())  # noqa: S108
    found = (place for place in places if place.is_dir() and os.access(place, os.W_OK) and place.stat().st_dev != here)
    place = next(found, None)
    if place is None:
        print("found no other file system than that of temporary files")
    return None if place is None else str(place)


if __name__ == "__main__":
    main()
