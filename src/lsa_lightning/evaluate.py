"""``lsa-evaluate``: accuracy of a checkpoint that ``lsa-train`` wrote, for attacks times eps, and R&G."""

from __future__ import annotations

import hydra
import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.paths import CONF_DIR
from lsa_lightning.runs import adopt_threat, console, evaluate_and_write, load_run, output_dir, split_loader


def evaluate(cfg: DictConfig) -> RobustnessTable:
    """Run one job in Hydra's run folder and return the table."""
    run, model, data = load_run(cfg)
    adopt_threat(cfg, run)
    if cfg.eps is not None:
        cfg.threat.eval_eps = cfg.eps if OmegaConf.is_list(cfg.eps) else [cfg.eps]
    folder = output_dir()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    pl.seed_everything(cfg.seed)
    table = evaluate_and_write(cfg.evaluation, model, split_loader(data, cfg.split), folder, cfg.evaluation.max_batches)
    console.print(f"Run folder: {folder}", soft_wrap=True)
    return table


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    evaluate(cfg)


if __name__ == "__main__":
    main()
