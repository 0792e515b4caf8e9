"""The values that W&B's search draws, see docs/clusters.md. The page's commands: ``test_docs_code.py``."""

from __future__ import annotations

from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir

from lsa_lightning.utils.paths import CONF_DIR

DOCS = Path(__file__).parents[1] / "docs"


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
