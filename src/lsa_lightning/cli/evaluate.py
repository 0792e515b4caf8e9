"""``lsa-evaluate``: accuracy of checkpoints that ``lsa-train`` wrote, for attacks times eps, R&G, masking checks."""

from __future__ import annotations

import hydra
import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.checkpoint import adopt_threat, checkpoint_file, load_run, require_checkpoint, split_loader
from lsa_lightning.runs.console import console
from lsa_lightning.runs.folder import output_dir
from lsa_lightning.runs.stages import Evaluation, run_evaluation, write_comparison
from lsa_lightning.utils.paths import CONF_DIR


def evaluate(cfg: DictConfig) -> dict[str, Evaluation]:
    """Run one job in Hydra's run folder and return the evaluations by checkpoint.

    Raises:
        ValueError: if there is no checkpoint, one is given twice, or they were trained on different data sets.
    """
    paths = _checkpoints(cfg)
    folder = output_dir()
    found: dict[str, Evaluation] = {}
    for index, path in enumerate(paths):
        one = cfg.copy()
        one.ckpt_path = path
        run, model, data = load_run(one)
        if index == 0:
            first = run
            eps = run.evaluation.eps if cfg.eps is None else cfg.eps
        _check_same_data(first, run, path)
        adopt_threat(one, run)
        one.evaluation.eps = eps if OmegaConf.is_list(eps) else [eps]
        if index == 0:
            OmegaConf.save(OmegaConf.merge(one, {"ckpt_path": cfg.ckpt_path}), folder / "config.yaml", resolve=True)
        pl.seed_everything(cfg.seed, verbose=index == 0)
        state_file = folder / "state" / f"{index}.jsonl"
        found[path] = run_evaluation(one.evaluation, model, split_loader(data, cfg.split), state_file)
    write_comparison(found, folder)
    console.print(f"Run folder: {folder}", soft_wrap=True)
    return found


def _checkpoints(cfg: DictConfig) -> list[str]:
    """``cfg.ckpt_path`` as a list of files that exist."""
    paths = [str(path) for path in (cfg.ckpt_path if OmegaConf.is_list(cfg.ckpt_path) else [cfg.ckpt_path])]
    if not paths or len({checkpoint_file(path).resolve() for path in paths}) < len(paths):
        msg = f"expected ckpt_path to be one checkpoint or several different ones, got {paths}"
        raise ValueError(msg)
    return paths


def _check_same_data(first: DictConfig, other: DictConfig, path: str) -> None:
    """Accuracies on different data sets cannot be compared."""
    data_sets = [OmegaConf.select(run, "data.dataset_cls.path") or run.data._target_ for run in (first, other)]
    if data_sets[0] != data_sets[1]:
        msg = f"expected checkpoints trained on the same data set, got {data_sets[0]} and, for {path}, {data_sets[1]}"
        raise ValueError(msg)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    require_checkpoint(cfg, "lsa-evaluate")
    evaluate(cfg)


if __name__ == "__main__":
    main()
