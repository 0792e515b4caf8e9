"""Batches whose order depends on seed and epoch alone, so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lsa_lightning.utils.random import Purpose, generator_of


class EpochShuffle(DistributedSampler[int]):
    """A random order of ``size`` indices for each epoch, dealt out to the ranks; Lightning tells the epoch.

    Lightning leaves a DistributedSampler alone. What it would make of another sampler shuffles once more, so that two
    ranks together would not get the batches of one.

    Args:
        size: number of samples >= 1.
        seed: seed >= 0.
        ranks: number of processes that share the indices, >= 1; the last ones are repeated if need be.
        rank: which of them this one is.

    Example:
        >>> sampler = EpochShuffle(5, seed=0)
        >>> sorted(sampler), list(sampler) == list(sampler)
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, size: int, seed: int, *, ranks: int = 1, rank: int = 0) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank, shuffle=False, seed=seed)  # type: ignore[arg-type]
        self.size = size

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=generator_of(self.seed, Purpose.ORDER, self.epoch))
        return iter(order[torch.tensor(list(super().__iter__()))].tolist())


class Rows(TensorDataset):
    """Tensors that a DataLoader takes a batch of at a time, rather than sample by sample; ``collate_fn=list``.

    Example:
        >>> loader = DataLoader(Rows(torch.arange(3), torch.zeros(3)), batch_size=2, collate_fn=list)
        >>> list(loader)
        [[tensor([0, 1]), tensor([0., 0.])], [tensor([2]), tensor([0.])]]
    """

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """The rows of a batch, of each tensor."""
        return [tensor[indices] for tensor in self.tensors]


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader that, loaded from a checkpoint in the middle of an epoch, goes on with the batches still to come.

    Lightning calls :meth:`state_dict` and :meth:`load_state_dict` by itself. Exact if the sampler's order can be
    repeated, as that of :class:`EpochShuffle`.
    """

    _given = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given, self._skip = self._skip, 0
        for batch in islice(super().__iter__(), self._given, None):
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the current epoch were given out."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out as many at the start of the next pass; none, if the epoch was complete."""
        self._skip = state["given"] % len(self)


def start_worker(worker_id: int) -> None:
    """Seed a worker process, and let SIGTERM end it only if its parent sends it.

    A queue sends the signal to every process of a job, whose first one then still needs its workers to finish the step
    and save. Where the system does not tell who sent a signal (macOS, Windows), it ends the worker.

    Args:
        worker_id: its number among the workers of the DataLoader.
    """
    pl_worker_init_function(worker_id)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
