"""Learning-rate schedules that advance with every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lsa_lightning.utils.checks import function, number, text


class PerStep:
    """A scheduler of torch that is stepped after every optimizer step, and whose length is that of the training run.

    The number of steps comes from the trainer, so that epochs, batches, gradient accumulation and the number of devices
    are all counted in.

    Args:
        scheduler: makes the scheduler from the optimizer; it lacks only the argument named by ``length``.
        length: the argument that takes a number of steps: ``total_steps`` of OneCycleLR, ``step_size_up`` of CyclicLR,
            ``T_max`` of CosineAnnealingLR.
        share: part in (0, 1] of the run that is meant: 0.5 for a CyclicLR that rises in the first half.

    Raises:
        ValueError: if ``share`` is outside (0, 1]; when called, if the run has no end.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> one_cycle = PerStep(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1))
        >>> one_cycle(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), steps=50).total_steps
        50
    """

    def __init__(
        self, scheduler: Callable[..., LRScheduler], *, length: str = "total_steps", share: float = 1.0
    ) -> None:
        self.scheduler: Callable[..., LRScheduler] = function(self, "scheduler", scheduler)
        self.length = text(self, "length", length)
        self.share = number(self, "share", share, above=0, high=1)

    def __call__(self, optimizer: Optimizer, steps: float) -> LRScheduler:
        """The scheduler for a run of ``steps`` optimizer steps."""
        if not math.isfinite(steps):
            msg = "expected a training run with an end, max_epochs or max_steps, got one without"
            raise ValueError(msg)
        return self.scheduler(optimizer, **{self.length: max(1, round(self.share * steps))})
