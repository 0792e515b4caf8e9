"""Kills a training run with SIGKILL at random moments, resumes it, and compares it with one that was never killed.

    python scripts/kill_and_resume.py [--kills 20] [--seed 0]

Trains model A on Moon for 3 epochs with ATLR, writing a checkpoint every 5 steps and after every epoch. The first child
process runs through; each of the others is killed at a random moment of its training and resumed in a new process from
the last checkpoint, if there is one. Prints, for each, whether the final weights are bit-identical and the MVL history
is the same, and exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lsa_lightning import ATLR, MoonDataModule, RobustClassifier
from lsa_lightning.attacks import PGD
from lsa_lightning.models import MLP

FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    same = 0
    with tempfile.TemporaryDirectory() as root:
        whole, seconds = uninterrupted(Path(root) / "whole")
        for index in range(args.kills):
            folder = Path(root) / str(index)
            moment = moments.uniform(0, seconds)
            resumed_at = kill_and_resume(folder, moment)
            equal = outcome(folder) == whole
            same += equal
            verdict = "identical" if equal else "DIFFERENT"
            print(
                f"killed after {moment:5.2f} of {seconds:.2f} s, resumed at step {resumed_at:2}: {verdict}", flush=True
            )
    print(f"{same} of {args.kills} identical")
    sys.exit(same != args.kills)


def uninterrupted(folder: Path) -> tuple[tuple[bytes, str], float]:
    """Outcome and seconds of a run that is left alone."""
    started = time.perf_counter()
    run(folder).join()
    return outcome(folder), time.perf_counter() - started


def kill_and_resume(folder: Path, moment: float) -> int:
    """Kill a run after ``moment`` seconds and let another finish it; the step at which that one began."""
    child = run(folder)
    child.join(timeout=moment)
    if child.is_alive() and child.pid is not None:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    last = folder / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    run(folder).join()
    return int(step)


def run(folder: Path) -> multiprocessing.process.BaseProcess:
    """Start a child that trains to the end, from the last checkpoint if there is one."""
    child = FORK.Process(target=train, args=(folder,))
    child.start()
    return child


def train(folder: Path) -> None:
    """Train in this process."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    pl.seed_everything(0, verbose=False)
    last = folder / "last.ckpt"
    callbacks = [
        ATLR(PGD(eps=0.3, bounds=None), top_k=1),
        ModelCheckpoint(folder, save_last=True, every_n_train_steps=5, save_top_k=-1),
        ModelCheckpoint(folder, save_last=True, every_n_epochs=1, filename="{epoch}", save_top_k=-1),
    ]
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(RobustClassifier(MLP()), MoonDataModule(), ckpt_path=last if last.exists() else None)
    trainer.save_checkpoint(folder / "final.ckpt")


def outcome(folder: Path) -> tuple[bytes, str]:
    """Final weights, as bytes, and MVL history."""
    checkpoint = torch.load(folder / "final.ckpt", weights_only=True)
    weights = b"".join(value.numpy().tobytes() for value in checkpoint["state_dict"].values())
    history = [state["history"] for key, state in checkpoint["callbacks"].items() if key.startswith("ATLR")]
    return weights, str(history)


if __name__ == "__main__":
    main()
