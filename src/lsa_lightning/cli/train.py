"""``lsa-train``: train, then analyse and evaluate, and write the run folder."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from lsa_lightning.cli.command import job_of, run
from lsa_lightning.cli.idle import check_all_do_something
from lsa_lightning.cli.meant import take_as_meant
from lsa_lightning.cli.overrides import as_typed, check_plugins, with_swept_names
from lsa_lightning.jobs.optimized_metric import optimized
from lsa_lightning.jobs.resume import with_resumed_run
from lsa_lightning.jobs.train import train
from lsa_lightning.utils.paths import CONF_DIR


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def _main(cfg: DictConfig) -> float:
    """One job; returns the metric that ``optimized_metric`` names, for sweepers that optimise it."""
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")  # ours logs epochs
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    with job_of("lsa-train", "train"):
        take_as_meant(cfg, "lsa-train")
        check_all_do_something(cfg)
        if cfg.seeds is not None:
            from lsa_lightning.stacked.train import train_seeds

            return statistics.fmean(optimized(summary, cfg.optimized_metric) for summary in train_seeds(cfg))
        summary = train(cfg)
        return math.nan if summary is None else optimized(summary, cfg.optimized_metric)


def _arguments(arguments: Sequence[str]) -> list[str]:
    """What Hydra is given."""
    check_plugins(arguments)
    return with_swept_names(with_resumed_run(as_typed(arguments)))


def main() -> None:
    """Entry point."""
    run("lsa-train", _main, "train", _arguments)


if __name__ == "__main__":
    from lsa_lightning.cli.train import main as by_name  # launchers pickle what other processes can import

    by_name()
