"""A search of 20 trials, two at a time, that is killed and started again by the same command.

    python scripts/optuna_bar.py [--trials 20] [--kill-after 7]

Prints the states of the trials, and whether each that was killed was tried again with its values and in its folder;
exits with 1 if the study does not end with so many finished trials.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna

JOB = (
    *("hparams_search=optuna", "cluster=joblib", "hydra.sweeper.n_jobs=2", "experiment=moon_at_lr"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.progress_bar=null", "analysis=null"),
    *("evaluation=null", "data.train_size=640", "data.val_size=200"),
)


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kill-after", type=int, default=7, help="finished trials")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "search"
        command = [sys.executable, "-m", "lsa_lightning.cli.train", *JOB, f"hydra.sweep.dir={folder}"]
        command.append(f"hydra.sweeper.n_trials={args.trials}")
        killed = kill_later(command, folder, args.kill_after)
        print(f"killed with {killed} running; states: {states(folder)}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"started again; states: {states(folder)}")
        jobs = len(list(folder.glob("*/summary.json")))
        good = states(folder)["COMPLETE"] == args.trials == jobs
        print(f"{jobs} finished jobs, best {load(folder).best_value:.4f}: {'' if good else 'NOT '}as it must be")
        sys.exit(not good)


def kill_later(command: list[str], folder: Path, trials: int) -> int:
    """Kill the search, jobs included, while it runs; how many trials were running."""
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as search:
        while len(list(folder.glob("*/summary.json"))) < trials:
            time.sleep(0.2)
        time.sleep(1)  # into the next trials
        os.killpg(search.pid, signal.SIGKILL)
    return states(folder)["RUNNING"]


def load(folder: Path) -> optuna.Study:
    """The study."""
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/optuna.db")


def states(folder: Path) -> Counter[str]:
    """How many trials are in each state."""
    trials = load(folder).get_trials(deepcopy=False)
    return Counter(trial.state.name for trial in trials)


if __name__ == "__main__":
    main()
