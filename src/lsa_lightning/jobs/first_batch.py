"""What of a job's configuration can be checked only beside a batch, but should be before the first step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.callbacks import ATLR
from lsa_lightning.layers.resolve import LayerSpec, resolve_layers
from lsa_lightning.models import RobustClassifier
from lsa_lightning.runs.stages import AnalysisStage
from lsa_lightning.utils.batch import read_batch
from lsa_lightning.utils.isolation import lent


class FirstBatchChecks(pl.Callback):
    """Looks at the first batch: does it fit the model, are the layers there that the analyses name, and ``top_k``?

    Of the layers training would find out with the first analysis, which comes after a warm-up, or when it is over.

    Args:
        analysis: the stage of the analysis; None: left out.
    """

    def __init__(self, analysis: AnalysisStage | None) -> None:
        self.analysis = analysis
        self.checked = False
        self.fits = False

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the model once: Lightning validates a few batches before training.

        Raises:
            MisconfigurationException: if the model cannot take them.
        """
        self._check_fit(trainer, pl_module, batch)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check once.

        Raises:
            MisconfigurationException: if the model cannot take the batch, a layer is not there, or there are fewer
                than ``top_k``.
        """
        self._check_fit(trainer, pl_module, batch)
        if self.checked:
            return
        self.checked = True
        if self.analysis is not None:
            x, _ = read_batch(batch)
            _check("analysis", pl_module, self.analysis.layers, self.analysis.top_k, x)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ATLR) and not callback.fixed:
                x, _ = callback.target.unpack(batch)
                _check("callbacks.atlr", callback.target.model(pl_module), callback.layers, callback.top_k, x)

    def _check_fit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        """Of the model that any backbone can be put into; other modules may take anything."""
        if self.fits or not isinstance(pl_module, RobustClassifier):
            return
        self.fits = True
        x, _ = read_batch(batch)
        backbone = type(pl_module.backbone).__name__
        try:
            with (
                lent(pl_module, x.device),
                trainer.precision_plugin.forward_context(),
                torch.no_grad(),
                torch.compiler.set_stance("force_eager"),
            ):
                pl_module(x)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            msg = (
                f"expected a model that takes what the data give, x of shape {list(x.shape)}, got {backbone}: {error}; "
                "without model=... the data choose one that fits, or set options of model.backbone"
            )
            raise MisconfigurationException(msg) from error


def _check(option: str, model: nn.Module, layers: LayerSpec, top_k: int | None, x: Tensor) -> None:
    if layers is None and top_k is None:
        return
    try:
        names = [layer.name for layer in resolve_layers(model, layers, x)]
    except ValueError as error:
        msg = f"{option}.layers: {error}"
        raise MisconfigurationException(msg) from error
    if top_k is not None and top_k > len(names):
        msg = f"expected {option}.top_k to be at most {len(names)}, the number of layers, got {top_k}: {names}"
        raise MisconfigurationException(msg)
