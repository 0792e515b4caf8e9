"""What the processes of a distributed run have twice."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DistributedSampler


def own_samples(loader: Any, batch_idx: int, samples: int) -> int:
    """How many samples of a batch, from its first on, are not repetitions that make the processes' shares equal.

    A :class:`~torch.utils.data.DistributedSampler` without ``drop_last`` deals the data out in turn and begins anew
    where it ends before all processes have as much: position i of process r is sample ``r + i * processes``. What
    another sampler repeats cannot be known; all samples count then.

    Args:
        loader: the dataloader.
        batch_idx: number of the batch in this process.
        samples: number of samples of the batch.

    Returns:
        A number in 0..samples.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> own_samples(DataLoader(range(5), batch_size=3, sampler=sampler), batch_idx=0, samples=3)
        2
    """
    sampler, batch_size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler) or batch_size is None:
        return samples
    before = sampler.rank + batch_idx * batch_size * sampler.num_replicas
    left: int = len(sampler.dataset) - before  # type: ignore[arg-type]
    return max(0, min(samples, -(-left // sampler.num_replicas)))
