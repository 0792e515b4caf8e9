"""``lsa-analyze``: the LSA of a checkpoint that ``lsa-train`` wrote (Algorithm 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from lsa_lightning.cli.command import job_of, run
from lsa_lightning.cli.idle import check_all_known
from lsa_lightning.cli.meant import take_as_meant
from lsa_lightning.cli.overrides import in_our_grammar
from lsa_lightning.jobs.acceleration import use_threads
from lsa_lightning.runs.checkpoint import TrainedRun, given, load_run, require_checkpoint, split_loader
from lsa_lightning.runs.console import print_analysis, show
from lsa_lightning.runs.folder import figures_of, output_dir, save_config, save_table
from lsa_lightning.runs.stages import Analysis, AnalysisStage
from lsa_lightning.runs.trust import Trust
from lsa_lightning.runs.write import write_analysis
from lsa_lightning.utils.checks import number, sequence
from lsa_lightning.utils.describe import eps_in_words
from lsa_lightning.utils.paths import CONF_DIR


def analyze(cfg: DictConfig) -> dict[float, Analysis]:
    """Run one job in Hydra's run folder and return what it found, by the radius of the attacks.

    A list of radii is a job for each of them, in a folder ``eps=<radius>`` of its own; what they found stands together
    in the run folder's ``profile.csv``.

    Raises:
        ValueError: if a radius is no number >= 0 or given twice, or the checkpoint cannot be opened.
    """
    use_threads("lsa-analyze", cfg.num_threads)
    run = load_run(cfg.ckpt_path, cfg.data, Trust.of(cfg.trust))
    if cfg.measure is None:
        cfg.measure = run.measure
    loader, folder = split_loader(run.data, cfg.split, cfg.limit_samples), output_dir()
    if OmegaConf.is_list(cfg.eps):
        save_config(cfg, folder)
        analyses = _at_each_radius(cfg, run, loader, folder)
    else:
        job = _at(cfg, run, cfg.eps)
        analyses = {job.threat.eps: _analyzed(job, run, loader, folder)}
    show(f"Run folder: {folder}")
    return analyses


def _at_each_radius(cfg: DictConfig, run: TrainedRun, loader: Any, folder: Path) -> dict[float, Analysis]:
    import pandas as pd

    analyses = {}
    for eps in _radii(cfg.eps):
        show(f"eps {eps_in_words(eps)}")
        analyses[eps] = _analyzed(_at(cfg, run, eps), run, loader, folder / f"eps={eps:g}")
    tables = {eps: analysis.to_dataframe() for eps, analysis in analyses.items()}
    save_table(pd.concat(tables, names=["eps"]).reset_index(level=0), folder / "profile.csv")
    return analyses


def _radii(eps: ListConfig) -> list[float]:
    radii: list[float] = sequence("lsa-analyze", "eps", OmegaConf.to_container(eps), number, low=0)
    if len({f"{radius:g}" for radius in radii}) < len(radii):
        msg = f"expected eps to be one radius or several different ones, got {radii}"
        raise ValueError(msg)
    return radii


def _at(cfg: DictConfig, run: TrainedRun, eps: float | None) -> DictConfig:
    """The configuration of the analysis at one radius; None: the run's own."""
    job = cfg.copy()
    job.eps = eps
    job.threat = OmegaConf.merge(run.threat, given(cfg.threat), {} if eps is None else {"eps": eps})
    return job


def _analyzed(job: DictConfig, run: TrainedRun, loader: Any, folder: Path) -> Analysis:
    """Analyse, write and print."""
    save_config(job, folder)
    pl.seed_everything(job.seed)
    stage: AnalysisStage = instantiate(job.analysis, _convert_="all")
    analysis = stage.run(run.model, loader)
    with figures_of(run.config.name, run.config.seed):
        write_analysis(analysis, folder)
    print_analysis(analysis)
    return analysis


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="analyze")
def _main(cfg: DictConfig) -> None:
    """One job."""
    with job_of("lsa-analyze", "analyze"):
        take_as_meant(cfg, "lsa-analyze")
        check_all_known("analyze")
        require_checkpoint(cfg)
        analyze(cfg)


def main() -> None:
    """Entry point."""
    run("lsa-analyze", _main, "analyze", in_our_grammar)


if __name__ == "__main__":
    from lsa_lightning.cli.analyze import main as by_name  # launchers pickle what other processes can import

    by_name()
