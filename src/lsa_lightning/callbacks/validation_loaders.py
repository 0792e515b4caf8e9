"""The validation dataloaders of a Trainer: which there are, what Lightning calls them, and the batches they give."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader

from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.patch import unpatched
from lsa_lightning.utils.checks import integer, text
from lsa_lightning.utils.distributed import own_samples
from lsa_lightning.utils.isolation import evaluating


def loader_key(owner: object, name: str, value: Any, *, also: str = "") -> int | str:
    """``value``, if it is the number >= 0 or the name of a loader."""
    if isinstance(value, str):
        return text(owner, name, value, also=also)
    return integer(owner, name, value, low=0, also=f" or a name{also}")


class ValidationLoaders:
    """The validation dataloaders of the run, loaded if they are not yet.

    Args:
        trainer: the Trainer, in a fit or a validation.

    Attributes:
        names: of each loader, what may stand for it: its key in a dict, else its number.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        fitting = trainer.state.fn == "fit"
        loop = trainer.fit_loop.epoch_loop.val_loop if fitting else trainer.validate_loop
        if loop._combined_loader is None and loop._data_source.is_defined():
            loop.setup_data()
        combined = loop._combined_loader
        self.limits = loop._max_batches
        self.combined = combined if combined is not None else CombinedLoader([], "sequential")
        # In the other modes a batch holds one of each loader, and Lightning takes them for one.
        self.sequential = combined is None or combined._mode == "sequential"
        self.names = self._names()

    def index(self, loader: int | str, argument: str) -> int:
        """The number of ``loader``, a name or a number.

        Raises:
            MisconfigurationException: if there is none such.
        """
        if loader in self.names:
            return self.names.index(loader)
        if isinstance(loader, int) and 0 <= loader < len(self.names):
            return loader
        msg = f"{argument}: expected validation dataloaders among {self.names}, got {loader!r}"
        raise MisconfigurationException(msg)

    def suffix(self, index: int) -> str:
        """What the keys of a loader end in: nothing for the only one, else its name in a dict, or Lightning's own."""
        if len(self.names) == 1:
            return ""
        name = self.names[index]
        return f"/{name}" if isinstance(name, str) else f"/dataloader_idx_{index}"

    def numbers(self, index: int, batch_index: int) -> tuple[int, ...]:
        """What the hooks of validation get besides the batch: its number, and that of the loader if there are more."""
        return (batch_index, index) if len(self.names) > 1 else (batch_index,)

    def batches(self, module: pl.LightningModule, index: int, limit: int | None) -> Iterator[Any]:
        """The batches of a loader, as ``validation_step`` gets them; at most ``limit``."""
        loader = self._apart(self.combined.flattened[index]) if self.sequential else self._together()
        most = min(self.limits[index] if self.sequential else self._most_together(), limit or float("inf"))
        for number, batch in enumerate(islice(loader, None if most == float("inf") else int(most))):
            converted = self.trainer.precision_plugin.convert_input(batch)
            converted = module._on_before_batch_transfer(converted, dataloader_idx=index)
            moved = self.trainer.strategy.batch_to_device(converted, dataloader_idx=index)
            with off_the_record(module):
                unpatched(module.on_validation_batch_start)(moved, *self.numbers(index, number))  # may change it
            yield moved

    @contextmanager
    def drawing_again(self) -> Iterator[None]:
        """What loaders draw inside from generators of their own, which others may share, is drawn again afterwards."""
        states = {generator: generator.get_state() for each in self.combined.flattened for generator in _own(each)}
        try:
            yield
        finally:
            for generator, state in states.items():
                generator.set_state(state)

    def real_samples(self, index: int, batch_index: int, samples: int) -> int:
        """How many samples of a batch, from its first on, are no repetition of what another process has."""
        return own_samples(self.combined.flattened[index], batch_index, samples) if self.sequential else samples

    def _together(self) -> Iterator[Any]:
        iterables = apply_to_collection(self.combined.iterables, DataLoader, self._apart)
        for batch, _, _ in CombinedLoader(iterables, self.combined._mode):
            yield batch

    def _most_together(self) -> float:
        """How many batches Lightning takes of loaders side by side, whose own iterators know nothing of its limits."""
        return min(self.limits) if self.combined._mode == "min_size" else max(self.limits)

    def _apart(self, loader: Any) -> Any:
        """A loader with workers of its own, where training is in the middle of the same one.

        Persistent workers serve one iterator, which training would find at its end.
        """
        training = self.trainer.fit_loop._combined_loader
        if training is None or getattr(loader, "_iterator", None) is None:
            return loader
        if not any(each is loader for each in training.flattened):
            return loader
        apart = copy.copy(loader)
        apart._iterator = None
        return apart

    def _names(self) -> list[int | str]:
        if not self.sequential:
            return [0]
        loaders = self.combined.flattened
        if isinstance(self.combined.iterables, dict) and len(self.combined.iterables) == len(loaders):
            return [str(name) for name in self.combined.iterables]
        return list(range(len(loaders)))


def _own(loader: Any) -> list[torch.Generator]:
    """The generators that a loader and its samplers hold."""
    batches = getattr(loader, "batch_sampler", None)
    holders = loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)
    generators = (getattr(holder, "generator", None) for holder in holders)
    return [each for each in generators if isinstance(each, torch.Generator)]


@contextmanager
def as_in_validation(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Trainer, module and autograd as they are in a validation run, so that the hooks of data do what they do there."""
    stage = trainer.state.stage
    trainer.state.stage = RunningStage.VALIDATING
    try:
        with evaluating(module), torch.no_grad():
            yield
    finally:
        trainer.state.stage = stage
