"""Random numbers that depend on the seed, the epoch and the image alone: not on ranks, workers or batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

SPLIT, ORDER, AUGMENTATION = range(3)
"""What a generator is for; each purpose has numbers of its own."""


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on all integers >= 0 of ``key``.

    The key is hashed, so that seed 0 in epoch 1 is not seed 1 in epoch 0.

    Example:
        >>> bool(generator_of(0, 1).initial_seed() == generator_of(1, 0).initial_seed())
        False
    """
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state % 2**63)


class EpochIndices(Sampler[int]):
    """Each of ``size`` indices once, in an order that depends on the seed and the epoch.

    What it yields is ``index + epoch * size``: the epoch travels with the index, and so reaches the augmentation in
    workers that live longer than an epoch. It asks for the epoch instead of being told, because the sampler that
    Lightning wraps around this one to share it among ranks does not pass the epoch on in all versions.

    Args:
        size: number of indices >= 1.
        seed: seed >= 0.
        epoch: tells the epoch >= 0; asked once each time the order is drawn.

    Example:
        >>> sorted(EpochIndices(4, seed=0, epoch=lambda: 2))
        [8, 9, 10, 11]
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size = size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch()
        order = torch.randperm(self.size, generator=generator_of(self.seed, ORDER, epoch))
        yield from (order + epoch * self.size).tolist()
