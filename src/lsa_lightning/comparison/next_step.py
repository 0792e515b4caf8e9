"""What is said at the end of several jobs: where they are, and how they are compared."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lsa_lightning.comparison.groups import Group
from lsa_lightning.comparison.metrics import headline
from lsa_lightning.comparison.results import in_words
from lsa_lightning.runs.console import console, show
from lsa_lightning.runs.read import read_run


class NextStep(Callback):
    """Names the folder of a sweep when its jobs are done, and the command that compares them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print it; the log is that of the last job."""
        for line in next_step(Path(config.hydra.sweep.dir)):
            console.print(Text(line), soft_wrap=True)


def next_step(folder: Path) -> list[str]:
    """The folder of all, and what to type.

    Example:
        >>> next_step(Path("runs/sweeps/a b"))
        ['Folder of all runs: runs/sweeps/a b', "Compare them with: lsa-report 'runs/sweeps/a b'"]
    """
    return [f"Folder of all runs: {folder}", f"Compare them with: {shlex.join(['lsa-report', str(folder)])}"]


def show_seeds(folders: Sequence[Path], together: Path) -> None:
    """Show the means of the main figures over the seeds of one configuration, and the next step.

    Args:
        folders: the run folders, one per seed.
        together: the folder that they lie in.
    """
    group = Group("", [read_run(folder) for folder in folders])
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(f"{len(folders)} seeds, in %")
    table.add_column("mean ± 95 %", justify="right", no_wrap=True)
    for metric in headline(group.runs):
        if (spread := group.spread(metric)) is not None:
            table.add_row(metric.title, in_words(spread))
    show(*([table] if table.row_count else []), *next_step(together))
