"""Random numbers that depend on a key alone."""

from __future__ import annotations

import numpy as np
import torch


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on all integers >= 0 of ``key``.

    The key is hashed, so that seed 0 in epoch 1 is not seed 1 in epoch 0.

    Example:
        >>> bool(generator_of(0, 1).initial_seed() == generator_of(1, 0).initial_seed())
        False
    """
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state % 2**63)
