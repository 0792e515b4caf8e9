"""The commands of docs/clusters.md compose, and so do the values that W&B's search draws."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from lsa_lightning.utils.paths import CONF_DIR

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "clusters.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TRAIN = [line for line in COMMANDS if line.startswith("lsa-train") and "cluster=lab" not in line]


@pytest.mark.parametrize("line", TRAIN)
def test_a_command_composes(line: str) -> None:
    _, *arguments = shlex.split(line, comments=True)
    overrides = [argument for argument in arguments if argument != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    firsts = [next(iter(each.sweep_string_iterator())) if each.is_sweep_override() else None for each in parsed]
    job = [
        typed if first is None else f"{each.get_key_element()}={first}"
        for typed, first, each in zip(overrides, firsts, parsed, strict=True)
    ]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", job, return_hydra_config=True)
    assert ("-m" in arguments) != (str(cfg.hydra.mode) == "RunMode.MULTIRUN")


def test_scripts_of_the_page_are_there() -> None:
    scripts = {match for line in COMMANDS for match in re.findall(r"python (\S+\.py)", line)}
    assert len(scripts) >= 2
    assert all((DOCS.parent / script).is_file() for script in scripts)


def test_the_search_of_wandb_gives_overrides_of_lsa_train() -> None:
    sweep = yaml.safe_load((DOCS / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    drawn = [
        f"{key}={each['values'][0] if 'values' in each else each['min']}" for key, each in sweep["parameters"].items()
    ]
    program, *fixed, last = sweep["command"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", [*fixed, *drawn], return_hydra_config=True)
    assert (sweep["program"], program, last) == ("lsa-train", "${program}", "${args_no_hyphens}")
    assert cfg.regularizer.gamma == sweep["parameters"]["regularizer.gamma"]["min"]
    assert sweep["metric"] == {"name": "val/acc_pgd", "goal": "maximize"}
    assert "wandb" in cfg.logger
