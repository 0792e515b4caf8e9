"""Figures and the MVL table in the loggers, while training goes on."""

from __future__ import annotations

import lightning.pytorch as pl

from lsa_lightning.callbacks.atlr import ATLR
from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.layers.report import AnalysedEpoch, plot_history, plot_reports
from lsa_lightning.runs.loggers import pixels_of, result_loggers
from lsa_lightning.utils.checks import integer


class ReportLogger(FreshCallback):
    """Gives the loggers what single numbers do not show about the layers.

    From the history of the run's :class:`~lsa_lightning.ATLR`, at any place in the list of callbacks:
    ``lsa/history``, the profile over the epochs as a heat map; ``lsa/profile``, the latest profile; and ``lsa/mvl``,
    the table of epoch, MVL, mu and sigma. W&B, TensorBoard, MLflow and CSV loggers take them, the last as files beside
    ``metrics.csv``; others are left alone (see :class:`~lsa_lightning.runs.loggers.ResultLogger`), as is a run without
    ATLR.

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
        self.every_n_epochs = integer(self, "every_n_epochs", every_n_epochs, low=0)
        self._drawn: AnalysedEpoch | None = None

    def start_afresh(self) -> None:
        """Nothing of this fit's history is drawn yet."""
        self._drawn = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if it is time to."""
        if self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole history."""
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        import pandas as pd

        history = next((callback.history for callback in trainer.callbacks if isinstance(callback, ATLR)), [])  # type: ignore[attr-defined]
        loggers = result_loggers(trainer.loggers) if trainer.is_global_zero else []
        if not history or not loggers or history[-1] is self._drawn:
            return
        self._drawn = latest = history[-1]
        figures = {
            "lsa/history": plot_history(history),
            "lsa/profile": plot_reports({f"epoch {latest.epoch}": latest.report}, latest.mvl),
        }
        images = {key: pixels_of(figure) for key, figure in figures.items()}
        rows = [(e.epoch, ", ".join(e.mvl), float(e.report.mu), float(e.report.sigma)) for e in history]
        table = pd.DataFrame(rows, columns=["epoch", "mvl", "mu", "sigma"])
        for logger in loggers:
            for key, pixels in images.items():
                logger.log_figure(key, pixels, trainer.global_step)
            logger.log_table("lsa/mvl", table, trainer.global_step)
