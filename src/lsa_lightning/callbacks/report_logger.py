"""Figures and the MVL table in the loggers, while training goes on."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lsa_lightning.callbacks.atlr import ATLR
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.loggers import log_image, log_table, rich_loggers


class ReportLogger(pl.Callback):
    """Gives W&B and TensorBoard what single numbers do not show about the layers.

    From the history of the run's :class:`~lsa_lightning.ATLR`, at any place in the list of callbacks:
    ``lsa/history``, the profile over the epochs as a heat map; ``lsa/profile``, the latest profile; and ``lsa/mvl``,
    the table of epoch, MVL, mu and sigma. Loggers that cannot hold figures are left alone, as is a run without ATLR.

    Args:
        every_n_epochs: draw after every n-th epoch, and at the end of training; 0: only at the end.

    Raises:
        ValueError: if ``every_n_epochs`` is negative.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lsa_lightning import ATLR
        >>> from lsa_lightning.attacks import PGD
        >>> trainer = Trainer(callbacks=[ATLR(PGD(eps=8 / 255)), ReportLogger()], logger=False)
    """

    def __init__(self, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 0:
            msg = f"expected every_n_epochs >= 0, got {every_n_epochs}"
            raise ValueError(msg)
        self.every_n_epochs = every_n_epochs
        self._drawn: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if it is time to."""
        if self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole history."""
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        import pandas as pd

        from lsa_lightning.plotting import plot_mvl_history, plot_profiles

        history = next((callback.history for callback in trainer.callbacks if isinstance(callback, ATLR)), [])  # type: ignore[attr-defined]
        loggers = rich_loggers(trainer.loggers) if trainer.is_global_zero else []
        if not history or not loggers or history[-1] is self._drawn:
            return
        self._drawn = history[-1]
        report = SustainabilityReport.from_dict({k: v for k, v in history[-1].items() if k not in ("epoch", "mvl")})
        figures = {
            "lsa/history": plot_mvl_history(history),
            "lsa/profile": plot_profiles({f"epoch {history[-1]['epoch']}": report}, history[-1]["mvl"]),
        }
        for key, figure in figures.items():
            log_image(loggers, key, figure, trainer.global_step)
        rows = [(entry["epoch"], ", ".join(entry["mvl"]), entry["mu"], entry["sigma"]) for entry in history]
        table = pd.DataFrame(rows, columns=["epoch", "mvl", "mu", "sigma"])
        log_table(loggers, "lsa/mvl", table, trainer.global_step)
