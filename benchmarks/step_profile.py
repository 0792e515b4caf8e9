"""Where the time of a training step goes: compiling, the host, the device, and what the host waits for.

    python -m benchmarks.step_profile DATA_ROOT [OVERRIDE ...]

Runs ``lsa-train experiment=cifar10_fast_lr`` for two epochs with a callback that prints the seconds before the first
steady step (compiling), the milliseconds of a steady step, and of one under torch's profiler: how long the device was
busy, the host's dearest operators, and, on a GPU, where the host waited for the device.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

STEADY, MEASURED, PROFILED = 20, 40, 10
"""Steps before those that are timed, how many these are, and how many are profiled after them."""


class StepProfile(pl.Callback):
    """Times and profiles some steps of the second epoch, by which everything is compiled."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.timed = 0.0
        self.profiler: profile | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start or end a part."""
        if trainer.current_epoch == 0:
            return
        if batch_idx == STEADY:
            print(f"until step {STEADY} of the second epoch: {self._now() - self.began:.1f} s", flush=True)
            self.timed = self._now()
        elif batch_idx == STEADY + MEASURED:
            print(f"a step: {1000 * (self._now() - self.timed) / MEASURED:.1f} ms", flush=True)
            self._begin()
        elif batch_idx == STEADY + MEASURED + PROFILED:
            self._end()

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profiler = profile(activities=activities)
        if torch.cuda.is_available():
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # names each line that makes the host wait
        self.profiler.start()

    def _end(self) -> None:
        assert self.profiler is not None
        self.profiler.stop()
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        averages = self.profiler.key_averages()
        busy = sum(event.self_device_time_total for event in averages) / 1000 / PROFILED
        print(f"device busy: {busy:.1f} ms of a step")
        print(averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60), flush=True)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lsa_lightning.cli.train", "experiment=cifar10_fast_lr"]
        data = ["data.dataset_cls.path=benchmarks.data_throughput.UncheckedCIFAR10", f"data.root={args.data_root}"]
        watch = ["+callbacks.step_profile._target_=benchmarks.step_profile.StepProfile", "trainer.max_epochs=2"]
        only = ["analysis=null", "evaluation=null", f"hydra.run.dir={folder}"]
        subprocess.run([*command, *data, *watch, *only, *args.overrides], check=True)


if __name__ == "__main__":
    main()
