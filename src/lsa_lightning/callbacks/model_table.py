"""What the model is made of, in a few lines, when fit starts."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ModelSummary
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lsa_lightning.utils.checks import integer


class ModelTable(ModelSummary):
    """Name, type and number of parameters of each part of the model, and their sum.

    It takes the place of Lightning's own table, whose other columns are FLOPs, which count nothing without an example
    input, and modes, which AT-LR does not change.

    Args:
        max_depth: how deep parts of parts are listed, >= 1.

    Raises:
        ValueError: if ``max_depth`` < 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ModelTable()], logger=False)
    """

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__(integer(self, "max_depth", max_depth, low=1))

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *_: Any,
        **__: Any,
    ) -> None:
        """Print the table; Lightning hands it what it has counted."""
        from lsa_lightning.runs.console import show

        columns = {name: values for name, values in summary_data if name in ("Name", "Type", "Params")}
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in columns:
            table.add_column(name.lower(), justify="right" if name == "Params" else "left", overflow="fold")
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        frozen = total_parameters - trainable_parameters
        show(table, f"{total_parameters:,} parameters" + (f", {frozen:,} of them frozen" if frozen else ""))
