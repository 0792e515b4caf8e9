"""Random numbers that depend on the seed, the epoch and the image alone: not on ranks, workers or batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DistributedSampler

from lsa_lightning.utils.random import Purpose, generator_of


class EpochIndices(DistributedSampler[int]):
    """Each of ``size`` indices once, in an order that depends on the seed and the epoch, dealt out to the ranks.

    What it yields is ``index + epoch * size``: the epoch travels with the index, and so reaches the augmentation in
    workers that live longer than an epoch.

    Lightning leaves a DistributedSampler alone. What it would make of another sampler shuffles once more, so that two
    ranks together would not get the batches of one.

    Args:
        size: number of indices >= 1.
        seed: seed >= 0.
        current_epoch: tells the epoch >= 0; asked once each time the order is drawn.
        ranks: number of processes that share the indices, >= 1; the last ones are repeated if need be.
        rank: which of them this one is.

    Example:
        >>> sorted(EpochIndices(4, seed=0, current_epoch=lambda: 2))
        [8, 9, 10, 11]
    """

    def __init__(
        self, size: int, seed: int, *, current_epoch: Callable[[], int], ranks: int = 1, rank: int = 0
    ) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.size = size
        self.seed = seed
        self.current_epoch = current_epoch

    def __iter__(self) -> Iterator[int]:
        epoch = self.current_epoch()
        order = torch.randperm(self.size, generator=generator_of(self.seed, Purpose.ORDER, epoch))
        mine = order[torch.tensor(list(super().__iter__()))]
        yield from (mine + epoch * self.size).tolist()
