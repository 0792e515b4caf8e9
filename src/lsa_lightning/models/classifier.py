"""A LightningModule around any classifier backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lsa_lightning.functional import classification_loss, predicted_labels
from lsa_lightning.models.schedules import PerStep
from lsa_lightning.utils.checks import function, instance, or_none
from lsa_lightning.utils.step_log import log_mean


class RobustClassifier(pl.LightningModule):
    """Cross-entropy training of any backbone; adversarial training is added by callbacks.

    One logit is a binary classifier, several are one per class. Logs ``train/loss``, ``train/acc``, ``val/loss``,
    ``test/loss`` and ``test/acc``.

    Args:
        backbone: maps (normalised) inputs to logits ``[N, 1]`` or ``[N, C]``.
        normalize: first layer, such as :class:`~lsa_lightning.models.Normalize`; batches stay in pixels. None: nothing.
        optimizer: makes the optimizer from the parameters; default Adam with learning rate 1e-3.
        scheduler: makes a learning-rate scheduler, stepped once an epoch, from the optimizer; or a
            :class:`~lsa_lightning.models.PerStep`, stepped with every optimizer step; None: constant rate.

    Raises:
        ValueError: if an argument is of another kind.

    Example:
        >>> from lsa_lightning.models import MLP
        >>> RobustClassifier(MLP())(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        normalize: nn.Module | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
        scheduler: PerStep | Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.normalize = or_none(instance, self, "normalize", normalize, nn.Module) or nn.Identity()
        self.backbone = instance(self, "backbone", backbone, nn.Module)
        self.optimizer: Callable[..., Optimizer] = function(self, "optimizer", optimizer)
        self.scheduler: PerStep | Callable[..., LRScheduler] | None = or_none(function, self, "scheduler", scheduler)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of inputs in pixels."""
        logits: Tensor = self.backbone(self.normalize(x))
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of ``(x, y)``."""
        return self._step(batch, "train", accuracy=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of ``(x, y)``; accuracies come from :class:`~lsa_lightning.callbacks.RobustValidation`."""
        self._step(batch, "val", accuracy=False)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy of ``(x, y)``."""
        self._step(batch, "test", accuracy=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predicted classes ``[N]`` of ``(x, ...)`` or x."""
        return predicted_labels(self(batch[0] if isinstance(batch, tuple | list) else batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """What the two factories make."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        if isinstance(self.scheduler, PerStep):
            scheduler = self.scheduler(optimizer, self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def _step(self, batch: Any, stage: str, accuracy: bool) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = classification_loss(logits, y)
        log_mean(self, f"{stage}/loss", loss, len(x))
        if accuracy:
            hits = predicted_labels(logits.detach()) == y.flatten()
            log_mean(self, f"{stage}/acc", hits.float().mean(), len(x))
        return loss
