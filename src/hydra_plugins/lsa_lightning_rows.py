"""A Hydra sweeper for tables whose rows are no product: each row is a list of overrides with a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

from lsa_lightning.utils.checks import choice, mapping, sequence, text


class RowSweep(BasicSweeper):
    """Runs every row of a table with every combination of what else is swept, then prints the table.

    A row is a job with ``name=<row>``, by which ``lsa-report`` labels it.

    Args:
        rows: by name, the overrides of a row, perhaps none.
        only: names of the rows that are run; None: all.
        params: what is swept in each row, as in Hydra's own sweeper; the overrides of the command line come after.
        max_batch_size: see Hydra's own sweeper.

    Raises:
        ValueError: if there is no row, or none of such a name.
    """

    def __init__(
        self,
        rows: dict[str, list[str]],
        only: list[str] | None = None,
        params: dict[str, str] | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        every = mapping(self, "rows", rows, _overrides)
        chosen = every if only is None else sequence(self, "only", only, choice, options=every)
        self.rows = {name: every[name] for name in chosen}

    def split_arguments(  # type: ignore[override]  # theirs is static
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The jobs in batches: first all of the first row."""
        jobs = [job for batch in super().split_arguments(overrides, None) for job in batch]
        of_rows = [[f"name={name}", *row, *job] for name, row in self.rows.items() for job in jobs]
        return list(self.split_overrides_to_chunks(of_rows, max_batch_size))

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs, and print and write the table of them, as ``lsa-report`` does."""
        from lsa_lightning.cli.report import main as report

        returned = super().sweep(arguments)
        assert self.config is not None  # as setup has been called
        report([str(Path(self.config.hydra.sweep.dir))])
        return returned


def _overrides(owner: object, name: str, value: Any, *, also: str = "") -> list[str]:
    """A list of overrides, perhaps an empty one."""
    return sequence(owner, name, value, text, also=also) if value else []


# The arguments stand in conf/experiment/paper.
NODE = {"_target_": "hydra_plugins.lsa_lightning_rows.RowSweep", "only": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="lsa_rows", node=NODE, provider="lsa-lightning")
