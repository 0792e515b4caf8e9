"""How the processes of a distributed run share work, and what they have twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

T = TypeVar("T")


def place() -> tuple[int, int]:
    """Number of this process, and how many there are; (0, 1) outside of a distributed run."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_share(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    """This process's share of what all processes are given alike, and each item's number.

    Of P processes, number p has the items p, p + P, p + 2 P, ...

    Example:
        >>> list(own_share("ab"))  # a single process has all
        [(0, 'a'), (1, 'b')]
    """
    rank, processes = place()
    return islice(enumerate(items), rank, None, processes)


def size_of_own_share(items: int | None) -> int | None:
    """How many of so many items :func:`own_share` gives; None where that is not known."""
    rank, processes = place()
    return None if items is None else len(range(rank, items, processes))


def gathered(value: T) -> list[T]:
    """What each process has, by its number; all must call it."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def over_processes(value: Tensor | None, device: torch.device) -> Tensor | None:
    """The mean of a scalar over the processes that have one, None where none has; all must call it."""
    if place()[1] == 1:
        return value
    own = torch.zeros((), device=device) if value is None else value.detach().to(device).view(())
    total = torch.stack([own.float(), torch.full((), float(value is not None), device=device)])
    dist.all_reduce(total)
    if value is None and not total[1]:
        return None
    return total[0] / total[1]


@contextmanager
def together() -> Iterator[None]:
    """Inside, each process works by itself; then all go on, or, where one has failed, none.

    Nobody then waits for a process that is not there any more. Inside, no process may wait for another one.

    Raises:
        RuntimeError: if another process failed; it names the error.
    """
    try:
        yield
    except Exception as error:
        gathered(f"{type(error).__name__}: {error}")
        raise
    errors = gathered(None)
    for rank, message in enumerate(errors):
        if message is not None:
            msg = f"process {rank} failed: {message}"
            raise RuntimeError(msg)


def by_first(work: Callable[[], T]) -> T:
    """Do ``work`` in the first process alone, while the others wait.

    Returns:
        What it returned, in all processes.

    Raises:
        RuntimeError: in the others, if it failed.
    """
    rank, _ = place()
    with together():
        result: Any = work() if rank == 0 else None
    return gathered(result)[0]  # type: ignore[no-any-return]


def take_weights_of_first(model: nn.Module) -> None:
    """Make the parameters and buffers those of the first process: after training, each has buffers of its own data."""
    if dist.is_initialized():
        for tensor in chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


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
