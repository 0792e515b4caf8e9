"""Whether the loss of a step fits what the attack takes for logits and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lsa_lightning.attacks.checks import Checks
from lsa_lightning.steps.loss_labels import FEWEST, has_other_labels


class LossCheck:
    """Looks whether the loss that a step returns is computed from the model's output, and for the batch's labels.

    Args:
        name: what messages call the model.
        read_logits: reads logits out of what the model returns.
        checks: when numbers are looked at; what is not known at once is looked at in a later step.
        wanted: whether anything is looked at.
    """

    def __init__(self, name: str, read_logits: Callable[[Any], Tensor], checks: Checks, *, wanted: bool) -> None:
        self.name = name
        self.read_logits = read_logits
        self.checks = checks
        self.wanted = wanted

    def of_step(self, loss: Tensor | None, output: Any, y: Tensor, *, first: bool, mixed: bool) -> None:
        """Look at the loss of a step.

        Args:
            loss: what the step returned; None: it skipped the batch.
            output: what the model returned in it; None: that was not watched.
            y: labels of the batch.
            first: whether it is the first step, which shows whether labels are classes at all.
            mixed: whether to look for mixed labels too, as steps that change x may have; in each step then.

        Raises:
            MisconfigurationException: if the loss does not fit.
        """
        if loss is None or output is None or not self.wanted or not (first or (mixed and len(y) >= FEWEST)):
            return
        try:
            logits = self.read_logits(output)
        except MisconfigurationException:  # in train mode alone: the attack, in eval mode, could read it
            return
        if logits.ndim not in (1, 2) or y.numel() != len(logits):  # else one label each, for one logit or one per class
            return
        if first:
            self.wanted = bool(_are_classes(y))
            if not self.wanted:
                return
        wrong = has_other_labels(loss, logits, y, mixed=mixed)
        if wrong is None:
            msg = (
                f"the loss that training_step returns is not computed from what {self.name} returns, which the attack "
                "takes for the logits: name the module that maps x to logits by backbone=..."
            )
            raise MisconfigurationException(msg)
        self.checks.numbers((wrong & _are_classes(y)).view(1), self._check_fitting)

    def _check_fitting(self, wrong: list[float]) -> None:
        if not any(wrong):
            return
        msg = (
            "the loss that training_step returns pulls the samples to other classes than the labels of the batch: what "
            f"{self.name} returns are no logits (features?): name the module that maps x to logits by backbone=...; or "
            "training_step has labels of its own (shuffled, a teacher's, or mixed as by mixup and cutmix), which the "
            "attack does not know: change x and labels in the dataloader or in on_after_batch_transfer instead; or the "
            "batch's labels are not in its second place: read them by batch_fn=..."
        )
        raise MisconfigurationException(msg)


def _are_classes(y: Tensor) -> Tensor:
    """Whether labels are classes: integers, of whatever type."""
    return (y == y.round()).all() if y.is_floating_point() else torch.ones((), dtype=torch.bool, device=y.device)
