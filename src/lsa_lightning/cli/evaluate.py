"""``lsa-evaluate``: accuracy of checkpoints that ``lsa-train`` wrote, for attacks times eps, R&G, masking checks."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.cli.command import job_of, run
from lsa_lightning.cli.idle import check_all_known
from lsa_lightning.cli.meant import take_as_meant
from lsa_lightning.cli.overrides import in_our_grammar
from lsa_lightning.comparison.checkpoints import checkpoint_labels, write_comparison
from lsa_lightning.jobs.acceleration import use_threads
from lsa_lightning.runs.checkpoint import (
    TrainedRun,
    checkpoint_file,
    given,
    load_run,
    require_checkpoint,
    split_loader,
)
from lsa_lightning.runs.console import print_accuracies, print_masking, show
from lsa_lightning.runs.folder import figures_of, output_dir, save_config
from lsa_lightning.runs.stages import Evaluation, EvaluationStage
from lsa_lightning.runs.trust import Trust
from lsa_lightning.runs.write import write_observed
from lsa_lightning.utils.paths import CONF_DIR


def evaluate(cfg: DictConfig) -> dict[str, Evaluation]:
    """Run one job in Hydra's run folder and return the evaluations by checkpoint.

    Every checkpoint is attacked within the threat model of its own run, at the radii of the first run.

    Raises:
        ValueError: if there is no checkpoint, one is given twice, or they were trained on different data sets.
    """
    use_threads("lsa-evaluate", cfg.num_threads)
    paths = _checkpoints(cfg)
    folder = output_dir()
    evaluations: dict[str, Evaluation] = {}
    trained_at: dict[str, float | None] = {}
    first: TrainedRun | None = None
    unit = steps = ""
    for index, path in enumerate(paths):
        run = load_run(path, cfg.data, Trust.of(cfg.trust))
        job = _adopted(cfg, run, first or run)
        if first is None:
            first = run
            save_config(job, folder)
        _check_same_data(first, run, path)
        trained_at[path] = run.training_eps
        pl.seed_everything(cfg.seed, verbose=index == 0)
        stage: EvaluationStage = instantiate(job.evaluation, _convert_="all")
        loader = split_loader(run.data, cfg.split, cfg.limit_samples)
        evaluations[path] = _measured(stage, run, loader, folder / "state" / f"{index}.jsonl")
        with figures_of(run.config.name, run.config.seed):
            write_observed(stage, run.model, loader, folder if len(paths) == 1 else folder / str(index))
        unit, steps = stage.unit, stage.steps_in_words
    with nullcontext() if first is None or len(paths) > 1 else figures_of(first.config.name, first.config.seed):
        write_comparison(evaluations, folder, unit)
    _print(evaluations, steps)
    if len(set(trained_at.values())) > 1:  # the column that is marked is that of the first
        labels, radii = checkpoint_labels(paths), {p: "none" if e is None else f"{e:g}" for p, e in trained_at.items()}
        show(f"Trained at different eps: {', '.join(f'{labels[path]} {radii[path]}' for path in paths)}")
    show(f"Run folder: {folder}")
    return evaluations


def _checkpoints(cfg: DictConfig) -> list[str]:
    """``cfg.ckpt_path`` as a list of files that exist."""
    paths = [str(path) for path in (cfg.ckpt_path if OmegaConf.is_list(cfg.ckpt_path) else [cfg.ckpt_path])]
    if not paths or len({checkpoint_file(path).resolve() for path in paths}) < len(paths):
        msg = f"expected ckpt_path to be one checkpoint or several different ones, got {paths}"
        raise ValueError(msg)
    return paths


def _adopted(cfg: DictConfig, run: TrainedRun, first: TrainedRun) -> DictConfig:
    """The configuration with what it leaves open taken from the run: threat model, and radii of the first run."""
    job = cfg.copy()
    job.threat = OmegaConf.merge(run.threat, given(cfg.threat))
    if cfg.eps is not None and job.evaluation.eps is not None:
        msg = f"expected eps={cfg.eps} or evaluation.eps={job.evaluation.eps}, got both"
        raise ValueError(msg)
    if job.evaluation.eps is None:
        radii = first.eval_eps if cfg.eps is None else cfg.eps
        job.evaluation.eps = radii if isinstance(radii, list) or OmegaConf.is_list(radii) else [radii]
    for name in ("exact", "ceiling"):
        job.evaluation[name] = _beside_attacks(job.evaluation[name], first, name, job.threat)
    if job.evaluation.training_eps is None and job.threat.norm == first.threat.norm:
        job.evaluation.training_eps = first.training_eps
    return job


def _beside_attacks(node: DictConfig | bool | None, run: TrainedRun, name: str, threat: DictConfig) -> Any:
    """What is measured beside the attacks: that of the run, within the job's threat model, unless it was given."""
    if node is not None:
        return node or None
    own = OmegaConf.select(run.config, f"evaluation.{name}")
    if own is None:
        return None
    return OmegaConf.merge(own, {key: threat[key] for key in ("norm", "bounds") if key in own})


def _measured(stage: EvaluationStage, run: TrainedRun, loader: Any, state_file: Path) -> Evaluation:
    if state_file.is_file():
        show(f"Going on from the finished batches in {state_file}")
    table = stage.run(run.model, loader, state_file)
    return Evaluation(table, stage.check(run.model, loader))


def _check_same_data(first: TrainedRun, other: TrainedRun, path: str) -> None:
    """Accuracies on different data sets cannot be compared."""
    if first.data_set != other.data_set:
        msg = (
            f"expected checkpoints trained on the same data set, got {first.data_set} and, for {path}, {other.data_set}"
        )
        raise ValueError(msg)


def _print(evaluations: dict[str, Evaluation], steps: str) -> None:
    short = checkpoint_labels(list(evaluations))
    flagged = [short[path] for path, each in evaluations.items() if any(f.raised for f in each.masking.values())]
    print_accuracies({short[path]: each.table for path, each in evaluations.items()}, flagged, steps)
    for path, each in evaluations.items():
        if short[path]:
            show(f"{short[path]}: {path}")
        print_masking(each.masking)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="evaluate")
def _main(cfg: DictConfig) -> None:
    """One job."""
    with job_of("lsa-evaluate", "evaluate"):
        take_as_meant(cfg, "lsa-evaluate")
        check_all_known("evaluate")
        require_checkpoint(cfg)
        evaluate(cfg)


def main() -> None:
    """Entry point."""
    run("lsa-evaluate", _main, "evaluate", in_our_grammar)


if __name__ == "__main__":
    from lsa_lightning.cli.evaluate import main as by_name  # launchers pickle what other processes can import

    by_name()
