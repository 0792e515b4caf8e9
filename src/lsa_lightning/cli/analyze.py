"""``lsa-analyze``: the LSA of a checkpoint that ``lsa-train`` wrote (Algorithm 2)."""

from __future__ import annotations

import hydra
import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.checkpoint import adopt_threat, load_run, require_checkpoint, split_loader
from lsa_lightning.runs.console import console
from lsa_lightning.runs.folder import output_dir
from lsa_lightning.runs.stages import analyse_and_write
from lsa_lightning.utils.paths import CONF_DIR


def analyze(cfg: DictConfig) -> dict[str, SustainabilityReport]:
    """Run one job in Hydra's run folder and return the reports by perturber."""
    run, model, data = load_run(cfg)
    adopt_threat(cfg, run)
    if cfg.eps is not None:
        cfg.threat.eps = cfg.eps
    folder = output_dir()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    pl.seed_everything(cfg.seed)
    reports, _ = analyse_and_write(cfg.analysis, model, split_loader(data, cfg.split), folder, cfg.analysis.max_batches)
    console.print(f"Run folder: {folder}", soft_wrap=True)
    return reports


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="analyze")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    require_checkpoint(cfg, "lsa-analyze")
    analyze(cfg)


if __name__ == "__main__":
    main()
