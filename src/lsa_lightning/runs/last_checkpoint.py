"""The checkpoint that an interrupted job goes on from: exactly, also in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lsa_lightning.data.loader import ResumableDataLoader
from lsa_lightning.runs.metrics_file import MetricsLogger
from lsa_lightning.runs.signals import Signals, Stopped
from lsa_lightning.utils.checks import integer, number, or_none
from lsa_lightning.utils.isolation import RandomState

KEY = "lsa_lightning"
"""Where the checkpoint holds what Lightning leaves out."""


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of the latest moment: of each epoch's end, within an epoch at intervals, and of a signal.

    It is written before a batch is trained on, when everything about the batch before is logged. It holds what
    Lightning's own leave out, so that a run resumed from it gives what an uninterrupted one gives: global random
    states, the sums of the epoch's metrics so far, the last validation's metrics, and how many rows ``metrics.csv``
    has. On several devices, random states and sums are not restored.

    In an epoch whose gradients are accumulated, or that is validated several times, the next batch for which nothing is
    pending is waited for. A signal during validation, whose state no checkpoint holds, stops at once.

    Args:
        dirpath: folder of the checkpoint.
        filename: its name, without ``.ckpt``.
        every_n_steps: batches >= 1 after which it is written within an epoch; None: not by their number.
        every_n_minutes: minutes > 0 after which it is written within an epoch; None: not by time.

    Attributes:
        signals: what asks for a stop; None: nothing does.
        seconds_before: seconds of training that the checkpoint which was loaded had taken.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        dirpath: str | Path,
        filename: str = "last",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
    ) -> None:
        self.dirpath = os.path.realpath(Path(dirpath).expanduser())
        self.path = Path(self.dirpath) / f"{filename}.ckpt"
        self.every_n_steps = or_none(integer, self, "every_n_steps", every_n_steps, low=1)
        self.every_n_minutes = or_none(number, self, "every_n_minutes", every_n_minutes, above=0)
        self.signals: Signals | None = None
        self.seconds_before = 0.0
        self._started = self._saved = time.monotonic()
        self._saved_step = -1
        self._loaded: dict[str, Any] | None = None
        self._random: dict[str, Any] | None = None
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._scores: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}
        self._saving = False
        self._batches: int | None = None
        self._at_epoch_start = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over what the checkpoint holds for loggers and trainer."""
        self._started = self._saved = time.monotonic()
        if not trainer.ckpt_path:
            return
        state = self._loaded or {"rows": None, "step": self._saved_step}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLogger) and trainer.is_global_zero:
                logger.experiment.keep(state["rows"], state["step"])
        for callback in trainer.checkpoint_callbacks:
            if callback.state_key in self._scores:
                callback.current_score = self._scores[callback.state_key]  # type: ignore[attr-defined]
        trainer.should_stop = state.get("stopped", False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals, which the Trainer has just taken; an epoch that begins is not resumed in the middle.

        Where a schedule asked for the number of steps, the dataloader was made before its state was known.
        """
        trainer.fit_loop._load_combined_loader_states()
        trainer.callback_metrics.update(self._metrics)
        if self.signals is not None:
            self.signals.install()
            self.signals.hold()
        if self._at_epoch_start:
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore once what a checkpoint of this moment holds; save, if it is time to; stop, if a signal came.

        Raises:
            Stopped: if one did, on any device.
        """
        if self._random is not None:
            self._restore_random(pl_module)
        stop = self._is_asked_to_stop(trainer)
        if not self._can_save(trainer, batch_idx):
            return
        if stop or self._is_due(trainer, batch_idx):
            self._save(trainer, batch_idx)
        if stop:
            raise Stopped((self.signals and self.signals.received) or signal.SIGTERM)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the sums of the epoch's metrics that the checkpoint holds to those that have begun anew."""
        results = trainer.fit_loop.epoch_loop._results
        for key in self._sums.keys() & results.keys():
            for name, value in self._sums.pop(key).items():
                setattr(results[key], name, _reduced(results[key], name, value))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The next epoch's metrics begin from nothing."""
        self._sums = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Until its end, a signal stops at once; on several devices it waits, lest the others wait for this one."""
        if self.signals is not None and trainer.world_size == 1:
            self.signals.release()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on."""
        if self.signals is not None and not trainer.sanity_checking:
            self.signals.hold()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end, from which nothing is left to train."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer, None)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where nothing was left to train, the metrics are the checkpoint's."""
        for name, value in self._metrics.items():
            trainer.callback_metrics.setdefault(name, value)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out, to this callback's own checkpoint alone."""
        if not self._saving:
            return
        epochs = trainer.fit_loop.epoch_progress.current.completed
        checkpoint["epoch"] = epochs if self._batches else max(epochs - 1, 0)
        if self._batches is not None:
            _before_fetching(checkpoint["loops"]["fit_loop"], trainer, self._batches)
        checkpoint[KEY] = {
            "dirpath": self.dirpath,
            "batches": self._batches,
            "step": trainer.global_step,
            "seconds": self.seconds,
            "rows": _rows(trainer),
            "random": RandomState(pl_module.device).state_dict(),
            "sums": _sums(trainer) if self._batches else {},
            "callback_metrics": dict(trainer.callback_metrics),
            "stopped": self._batches is None and trainer.should_stop,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is to be restored later, and let the paths follow a run folder that was moved."""
        self._saved_step = int(checkpoint["global_step"])
        self._loaded = checkpoint.get(KEY)
        if self._loaded is None:
            return
        states = checkpoint["callbacks"]
        self._scores = {key: state["current_score"] for key, state in states.items() if "current_score" in state}
        self.seconds_before = self._loaded["seconds"]
        self._metrics = self._loaded["callback_metrics"]
        self._at_epoch_start = not self._loaded["batches"]
        if trainer.world_size == 1:
            self._random, self._sums = self._loaded["random"], self._loaded["sums"]
        if Path(os.path.realpath(str(trainer.ckpt_path))).parent == Path(self.dirpath):
            checkpoint["callbacks"] = _moved(states, self._loaded["dirpath"], self.dirpath)

    @property
    def seconds(self) -> float:
        """Seconds of training, over all attempts."""
        return self.seconds_before + time.monotonic() - self._started

    def _restore_random(self, pl_module: pl.LightningModule) -> None:
        state = RandomState(pl_module.device)
        state.load_state_dict(self._random or {})
        state.restore()
        self._random = None

    def _is_asked_to_stop(self, trainer: pl.Trainer) -> bool:
        asked = self.signals is not None and self.signals.received is not None
        return trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _can_save(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether nothing of the batches before is pending, and Lightning goes on here as if it had not stopped."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        interval = trainer.val_check_batch
        validated = batch_idx > 0 and isinstance(interval, int) and batch_idx % interval == 0
        return batch_idx % trainer.accumulate_grad_batches == 0 and not validated

    def _is_due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """At each epoch's start, when the one before is complete; later, after an interval."""
        if trainer.global_step == self._saved_step:
            return False
        if batch_idx == 0:
            return trainer.global_step > 0
        if self.every_n_steps is not None and batch_idx % self.every_n_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved) / 60
        due = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        return bool(trainer.strategy.broadcast(due))

    def _save(self, trainer: pl.Trainer, batches: int | None) -> None:
        """Write the checkpoint, after ``batches`` of an epoch; None: after the last epoch."""
        self._saving, self._batches = True, batches
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = False
        self._saved, self._saved_step = time.monotonic(), trainer.global_step


def _before_fetching(loop: dict[str, Any], trainer: pl.Trainer, batches: int) -> None:
    """Make the loops' state that of a moment ago, before the batch that is about to be trained on was fetched."""
    progress = loop["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    progress["total"]["ready"] -= 1
    progress["current"] = dict.fromkeys(progress["current"], batches)
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else [each for each in combined.flattened if hasattr(each, "state_dict")]
    states = loop["state_dict"].get("combined_loader", [])
    for loader, state in zip(loaders, states, strict=True):
        if isinstance(loader, ResumableDataLoader):
            state["given"] -= 1


def _rows(trainer: pl.Trainer) -> int | None:
    """How many rows ``metrics.csv`` has; None without one."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return next((logger.rows for logger in loggers if isinstance(logger, MetricsLogger)), None)


def _sums(trainer: pl.Trainer) -> dict[str, dict[str, Tensor]]:
    """What Lightning has summed up for the means of this epoch, by metric."""
    names = ("value", "cumulated_batch_size")
    results = trainer.fit_loop.epoch_loop._results
    return {
        key: {name: getattr(metric, name).cpu() for name in names if hasattr(metric, name)}
        for key, metric in results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.update_called
    }


def _reduced(metric: Any, name: str, former: Tensor) -> Tensor:
    """The reduction of a metric over all batches of an epoch, from that over the first ones and the current."""
    current: Tensor = getattr(metric, name)
    former = former.to(current.device)
    if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
        return metric.meta.reduce_fx(former, current)  # type: ignore[no-any-return]
    return former + current


def _moved(state: Any, old: str, new: str) -> Any:
    """``state`` with the folder ``old`` in its paths replaced by ``new``."""
    if isinstance(state, dict):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in state.items()}
    if isinstance(state, str) and Path(old) in (Path(state), Path(state).parent):
        return new if state == old else str(Path(new) / Path(state).name)
    return state
