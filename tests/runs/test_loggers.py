"""Which loggers get figures and tables, and what they get."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsa_lightning.runs.loggers import log_image, log_table, rich_loggers


def drawing() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1], [0, 1])
    return figure


def read_board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_only_wandb_and_tensorboard_hold_figures(tmp_path: Path) -> None:
    csv, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path)
    dashboard = WandbLogger(save_dir=tmp_path, offline=True)
    assert rich_loggers([csv, board, dashboard]) == [board, dashboard]


@pytest.mark.parametrize("kind", ["figure", "file"])
def test_a_figure_and_its_file_give_the_same_image(tmp_path: Path, kind: str) -> None:
    logger = TensorBoardLogger(tmp_path, name="board", version="")
    drawing().savefig(tmp_path / "x.png")
    log_image([logger], "a/figure", drawing() if kind == "figure" else tmp_path / "x.png", step=7)
    (shown,) = read_board(tmp_path / "board").Images("a/figure")
    assert (shown.step, shown.width, shown.height) == (7, 100, 50)
    pixels = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "x.png").convert("RGB")))
    assert pixels.std() > 10


def test_a_table_is_text_in_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="board", version="")
    log_table([logger], "a/table", pd.DataFrame({"epoch": [0, 1], "mvl": ["fc1, fc2", ""]}), step=3)
    (text,) = read_board(tmp_path / "board").Tensors("a/table/text_summary")
    expected = "| epoch | mvl |\n| --- | --- |\n| 0 | fc1, fc2 |\n| 1 |  |"
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (3, expected)
