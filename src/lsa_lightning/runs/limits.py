"""How many batches the stages after training see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from lsa_lightning.utils.batch import first_samples, read_batch
from lsa_lightning.utils.checks import integer
from lsa_lightning.utils.progress import number_of_batches


class FirstBatches:
    """The first batches of a dataloader.

    Args:
        dataloader: any iterable of batches.
        limit: number of batches >= 1.

    Example:
        >>> list(FirstBatches("abc", 2)), len(FirstBatches("abc", 5))
        (['a', 'b'], 3)
    """

    def __init__(self, dataloader: Iterable[Any], limit: int) -> None:
        self.dataloader = dataloader
        self.limit = limit

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dataloader), self.limit)

    def __len__(self) -> int:
        return number_of_batches(self.dataloader, self.limit) or self.limit


class FirstSamples:
    """The batches of a dataloader up to a number of samples; the last batch is cut.

    Args:
        dataloader: any iterable of batches.
        limit: number of samples >= 1.

    Raises:
        ValueError: if there are to be none.

    Example:
        >>> import torch
        >>> batches = [(torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(3, 2), torch.zeros(3))]
        >>> [len(x) for x, y in FirstSamples(batches, 4)]
        [3, 1]
    """

    def __init__(self, dataloader: Iterable[Any], limit: int) -> None:
        self.dataloader = dataloader
        self.limit = integer(self, "limit_samples", limit, low=1)

    def __iter__(self) -> Iterator[Any]:
        left = self.limit
        for batch in self.dataloader:
            samples = len(read_batch(batch)[0])
            yield first_samples(batch, samples, left)
            left -= samples
            if left <= 0:
                return


def first_batches(dataloader: Iterable[Any], limit: float | None) -> Iterable[Any]:
    """As many batches as a Trainer's ``limit_test_batches`` lets through, which ``fast_dev_run`` sets too.

    Args:
        dataloader: any iterable of batches.
        limit: a number of batches, or a share in [0, 1]; None: all.

    Raises:
        ValueError: if nothing is left, or the share of a number that is not known is asked for.

    Example:
        >>> list(first_batches("abcd", 0.5)), list(first_batches("abcd", 1)), first_batches("abcd", 1.0)
        (['a', 'b'], ['a'], 'abcd')
    """
    check_limit(limit)
    if limit is None or (isinstance(limit, float) and limit == 1.0):
        return dataloader
    batches = number_of_batches(dataloader)
    if isinstance(limit, float) and batches is None:
        msg = f"expected trainer.limit_test_batches to be a number of batches, of data without a length, got {limit}"
        raise ValueError(msg)
    first = int(limit * (batches or 0)) if isinstance(limit, float) else limit
    check_limit(limit, first)
    return FirstBatches(dataloader, first)


def check_limit(limit: float | None, left: float | None = None) -> None:
    """Raise a ValueError if a Trainer's ``limit_test_batches`` leaves nothing.

    Args:
        limit: what was asked for.
        left: how many batches that leaves; None: not known yet.
    """
    if (limit if left is None else left) == 0:
        msg = (
            f"expected trainer.limit_test_batches to leave at least one batch, got {limit}; "
            "analysis=null evaluation=null leaves out what is measured on them"
        )
        raise ValueError(msg)
