"""Small figures and tables for loggers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TABLE = pd.DataFrame({"epoch": [0, 1], "mvl": ["fc1, fc2", ""]})


def drawing() -> Figure:
    """100 by 50 pixels with a line."""
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1], [0, 1])
    return figure


def read_board(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of ``folder``, all of it."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events
