"""``lsa-analyze``: the LSA of a checkpoint that ``lsa-train`` wrote (Algorithm 2)."""

from __future__ import annotations

import hydra
import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.checkpoint import RefusedRunError, given, load_run, require_checkpoint, split_loader
from lsa_lightning.runs.console import print_analysis, show
from lsa_lightning.runs.folder import output_dir, save_config
from lsa_lightning.runs.stages import Analysis, AnalysisStage
from lsa_lightning.runs.trust import Trust
from lsa_lightning.runs.write import write_analysis
from lsa_lightning.utils.paths import CONF_DIR


def analyze(cfg: DictConfig) -> Analysis:
    """Run one job in Hydra's run folder and return what it found."""
    run = load_run(cfg.ckpt_path, cfg.data, Trust.of(cfg.trust))
    cfg.threat = OmegaConf.merge(run.threat, given(cfg.threat), {} if cfg.eps is None else {"eps": cfg.eps})
    if cfg.measure is None:
        cfg.measure = run.measure
    folder = output_dir()
    save_config(cfg, folder)
    pl.seed_everything(cfg.seed)
    stage: AnalysisStage = instantiate(cfg.analysis, _convert_="all")
    analysis = stage.run(run.model, split_loader(run.data, cfg.split))
    write_analysis(analysis, folder)
    print_analysis(analysis)
    show(f"Run folder: {folder}")
    return analysis


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="analyze")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    require_checkpoint(cfg, "lsa-analyze")
    try:
        analyze(cfg)
    except RefusedRunError as error:
        msg = f"lsa-analyze: {error}"
        raise SystemExit(msg) from None


if __name__ == "__main__":
    main()
