"""What one seed's callbacks see of the Trainer that trains all seeds: its own metrics, loggers and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from lsa_lightning.callbacks import AdversarialTraining
from lsa_lightning.runs.last_checkpoint import KEY
from lsa_lightning.stacked.job import SeedJob


class SeedTrainer(pl.Trainer):
    """A Trainer that is ``whole`` in all but what is one seed's own, for callbacks that were written for one.

    Args:
        whole: the Trainer that trains the stacked models.
        job: the seed's job.
        index: the number of its model among the stacked ones.
        jobs: those of all; the attack of the first crafts the examples.
    """

    def __init__(self, whole: pl.Trainer, job: SeedJob, index: int, jobs: Sequence[SeedJob]) -> None:
        # Not super's: all that a Trainer sets up is that of ``whole``.
        self._whole = whole
        self._job = job
        self._index = index
        self._lead = jobs[0]
        self._models = len(jobs)
        self._metrics: dict[str, Tensor] = {}
        self._loggers = job.loggers
        self.callbacks = list(job.callbacks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_whole"], name)

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """The seed's own."""
        return self._metrics

    @property
    def lightning_module(self) -> pl.LightningModule:
        """The seed's own, whose weights are set when training is over."""
        return self._job.model

    @property
    def datamodule(self) -> pl.LightningDataModule:
        """The seed's own."""
        return self._job.data

    @property
    def _results(self) -> None:
        """The keys that the seed's module logs are its own, too."""
        return None

    def log_metrics(self, metrics: dict[str, Tensor], *, training: bool) -> None:
        """Give the metrics of an epoch, or of a validation run in it, to callbacks and loggers, as a Trainer does."""
        # Lightning counts the last step of an epoch only after it has logged; the hook comes between the two.
        step = self.fit_loop.epoch_loop._batches_that_stepped - training
        self._metrics.update(metrics)
        scalars = {"epoch": self.current_epoch, **{name: value.item() for name, value in metrics.items()}}
        for logger in self.loggers if metrics else []:
            logger.log_metrics(scalars, step=step)
            logger.save()

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """Write the checkpoint that the seed's own Trainer would write."""
        with self._job.random.used():
            checkpoint = _CheckpointConnector(self).dump_checkpoint(weights_only)
        checkpoint["state_dict"] = self._job.own_names(self._sliced(checkpoint["state_dict"]))
        checkpoint["optimizer_states"] = [
            {**state, "state": self._sliced(state["state"])} for state in checkpoint.get("optimizer_states", [])
        ]
        loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = loaders[self._index : self._index + 1]
        for callback in self.callbacks:
            if isinstance(callback, AdversarialTraining):
                checkpoint["callbacks"][callback.state_key]["attack"] = self._attack_state()
        if KEY in checkpoint:
            checkpoint[KEY]["seconds"] /= self._models
        self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def _attack_state(self) -> dict[str, Tensor]:
        """The seed's part of the state of the attack that crafts the examples of all."""
        method = self._lead.method
        assert method is not None
        return self._sliced(method.attack.state_dict())  # type: ignore[no-any-return]

    def _sliced(self, state: Any) -> Any:
        """Of each tensor ``[S, ...]`` in ``state``, this model's part; numbers are those of all."""
        if isinstance(state, dict):
            return {key: self._sliced(value) for key, value in state.items()}
        return state[self._index].clone() if isinstance(state, Tensor) and state.ndim > 0 else state


class EpochMeans:
    """Stands in for a module's ``log``: means over an epoch, weighted by batch size, in the order Lightning sums in.

    Attributes:
        training: whether what is logged now comes from a training step, for which Lightning has other defaults.
    """

    def __init__(self) -> None:
        self.training = True
        self._sums: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        self._samples: dict[str, int] = {}

    def log(
        self,
        name: str,
        value: Any,
        *,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        batch_size: int | None = None,
        **_: Any,
    ) -> None:
        """Add a value.

        Raises:
            MisconfigurationException: for what is no mean over an epoch.
        """
        per_step = self.training if on_step is None else on_step
        per_epoch = not self.training if on_epoch is None else on_epoch
        is_mean = reduce_fx in ("mean", torch.mean) and isinstance(value, Tensor | float | int)
        if per_step or not per_epoch or not is_mean:
            msg = (
                f"seeds=... logs means over epochs, got {name!r} by step or reduced otherwise: log it with "
                "on_step=False, on_epoch=True, or train the seeds one after another, -m seed=..."
            )
            raise MisconfigurationException(msg)
        samples = 1 if batch_size is None else batch_size
        value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
        sums = self._sums[self.training]
        sums[name] = sums.get(name, torch.zeros(())) + value * samples
        self._samples[name] = self._samples.get(name, 0) + samples

    def close(self, *, training: bool) -> dict[str, Tensor]:
        """The means with which an epoch of training, or a validation run, ends."""
        sums, self._sums[training] = self._sums[training], {}
        return {name: total / self._samples.pop(name) for name, total in sums.items()}
