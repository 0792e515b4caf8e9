"""Figures and tables for the loggers that can hold them: those of W&B and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RichLogger: TypeAlias = WandbLogger | TensorBoardLogger
"""A logger that holds more than numbers."""


def rich_loggers(loggers: Iterable[Logger]) -> list[RichLogger]:
    """Those of ``loggers`` that can hold figures and tables."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger | TensorBoardLogger)]


def log_image(loggers: Sequence[RichLogger], key: str, image: Figure | Path, step: int) -> None:
    """Give a figure, or a PNG file, to the loggers."""
    pixels = _drawn(image) if isinstance(image, Figure) else _read(image)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [pixels], step)
        else:
            logger.experiment.add_image(key, pixels, step, dataformats="HWC")
            logger.experiment.flush()  # what comes after fit is not flushed by Lightning


def log_table(loggers: Sequence[RichLogger], key: str, table: pd.DataFrame, step: int) -> None:
    """Give a table to the loggers: a W&B table, or text in TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, dataframe=table, step=step)
        else:
            logger.experiment.add_text(key, _markdown(table), step)
            logger.experiment.flush()


def _drawn(figure: Figure) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]``."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _read(path: Path) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of a PNG file, which matplotlib reads as values in [0, 1]."""
    return (255 * imread(path)[..., :3]).round().astype(np.uint8)


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
