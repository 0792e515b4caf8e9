"""A Hydra sweeper for tables whose rows are no product: each row is a list of overrides with a name.

Hydra imports this module in every app of an environment, so that lsa_lightning, and with it PyTorch, is imported when a
sweep begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class RowSweep(Sweeper):
    """Runs every row of a table with every combination of what else is swept, then prints the table.

    A row is a job with ``name=<row>``, by which ``lsa-report`` labels it.

    Args:
        rows: by name, the overrides of a row, perhaps none.
        only: names of the rows that are run; None: all.
        params: what is swept in each row, as in Hydra's own sweeper; the overrides of the command line come after.

    Raises:
        ValueError: if there is no row, or none of such a name.
    """

    def __init__(
        self,
        rows: dict[str, list[str]],
        only: list[str] | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        from lsa_lightning.utils.checks import choice, mapping, sequence

        every = mapping(self, "rows", rows, _overrides)
        chosen = every if only is None else sequence(self, "only", only, choice, options=every)
        self.rows = {name: every[name] for name in chosen}
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs, and print and write the table of them, as ``lsa-report`` does."""
        from lsa_lightning.cli.report import main as report
        from lsa_lightning.utils.files import write_text

        folder = Path(self._config.hydra.sweep.dir)
        write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self._config))
        returned = self._launcher.launch(self.jobs(arguments), initial_job_idx=0)
        for job in returned:
            _ = job.return_value  # raises what the job did
        report([str(folder)])
        return returned

    def jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """The overrides of each job: first all of the first row."""
        typed = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parsed = {each.get_key_element(): each for each in OverridesParser.create().parse_overrides(typed)}
        options = [
            [f"{key}={value}" for value in each.sweep_string_iterator()]
            if each.is_sweep_override()
            else [str(each.input_line)]
            for key, each in parsed.items()
        ]
        return [[f"name={name}", *row, *job] for name, row in self.rows.items() for job in product(*options)]


def _overrides(owner: object, name: str, value: Any, *, also: str = "") -> list[str]:
    """A list of overrides, perhaps an empty one."""
    from lsa_lightning.utils.checks import sequence, text

    return sequence(owner, name, value, text, also=also) if value else []


# The arguments stand in conf/experiment/paper.
NODE = {"_target_": "hydra_plugins.lsa_lightning_rows.RowSweep", "only": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="lsa_rows", node=NODE, provider="lsa-lightning")
