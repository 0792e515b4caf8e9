"""``lsa-train``: train, then analyse and evaluate, and write the run folder."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.attacks import Attack
from lsa_lightning.callbacks import ATLR
from lsa_lightning.functional import predicted_labels
from lsa_lightning.runs.checkpoint import checkpoint_file, split_loader
from lsa_lightning.runs.console import console
from lsa_lightning.runs.folder import output_dir, save_config, save_figure, versions, write_json
from lsa_lightning.runs.loggers import log_image, log_table, rich_loggers
from lsa_lightning.runs.stages import analyse_and_write, evaluate_and_write, instantiate_evaluation
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.paths import CONF_DIR


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run one job in Hydra's run folder and return what ``summary.json`` holds.

    With several processes, all of them train; what comes then is done by the first alone, and the others return an
    empty summary.
    """
    folder = output_dir()
    config = save_config(cfg, folder)
    if cfg.ckpt_path is not None:
        checkpoint_file(cfg.ckpt_path)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    pl.seed_everything(cfg.seed, workers=True)
    data: pl.LightningDataModule = instantiate(cfg.data, _convert_="all")
    model: pl.LightningModule = instantiate(cfg.model, _convert_="all")
    callbacks = _instances(cfg.callbacks)
    instantiate(cfg.analysis, _convert_="all")  # only for their errors, which after training would come too late
    instantiate_evaluation(cfg.evaluation)
    loggers = _instances(cfg.logger)
    failed = True
    try:
        trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
        for logger in loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml lies beside metrics.csv
                logger.log_hyperparams(config)
        started = time.perf_counter()
        trainer.fit(model, data, ckpt_path=cfg.ckpt_path)
        seconds = time.perf_counter() - started
        if _is_done_after_training(trainer):
            failed = False
            return {}
        checkpoint, checkpoint_epoch = _load_best(trainer, model)
        model.to(trainer.strategy.root_device)  # fit leaves it on the CPU
        summary = {
            "name": cfg.name,
            "seed": cfg.seed,
            "trained": _what_was_trained(cfg, callbacks),
            "epochs": trainer.current_epoch,
            "training_seconds": round(seconds, 2),
            "checkpoint": checkpoint,
            "checkpoint_epoch": checkpoint_epoch,
            **_measure(cfg, model, data, folder),
            "mvl_history": _mvl_history(callbacks, folder),
            "versions": versions(),
        }
        write_json(summary, folder / "summary.json")
        _log_results(loggers, summary, folder, trainer.global_step)
        failed = False
    finally:
        _finish(loggers, failed)
    _print_end(summary, folder)
    return summary


def _instances(node: DictConfig | None) -> list[Any]:
    """The objects of a group; entries set to null are left out."""
    return [instantiate(entry, _convert_="all") for entry in (node or {}).values() if entry is not None]


def _is_done_after_training(trainer: pl.Trainer) -> bool:
    """Whether this is a process besides the first. The first goes on as if it had always been alone."""
    if dist.is_initialized():
        dist.destroy_process_group()  # else metrics would wait for the others
    return not trainer.is_global_zero


def _load_best(trainer: pl.Trainer, model: pl.LightningModule) -> tuple[str | None, int | None]:
    """Put the best checkpoint's weights into ``model``; without one, the last weights stay.

    Returns:
        Its file and epoch.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        return None, None
    checkpoint = torch.load(path, map_location=model.device, weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    return str(path), int(checkpoint["epoch"])


def _measure(cfg: DictConfig, model: pl.LightningModule, data: pl.LightningDataModule, folder: Path) -> dict[str, Any]:
    """Profiles, accuracies and figures on the test split."""
    loader = split_loader(data, "test")
    reports, mvl = analyse_and_write(cfg.analysis, model, loader, folder, cfg.analysis.max_batches)
    evaluation = evaluate_and_write(cfg.evaluation, model, loader, folder)
    attack: Attack = instantiate(next(iter(cfg.analysis.perturbers.values())), _convert_="all")
    _draw_inputs(model, loader, attack, folder)
    first = next(iter(reports.values()))
    return {
        **{key: value for key, value in evaluation.to_dict().items() if key != "samples"},
        "mvl": mvl,
        "relative_error": {
            name: dict(zip(report.layers, report.mean.tolist(), strict=True)) for name, report in reports.items()
        },
        "mu": float(first.mu),
        "sigma": float(first.sigma),
        "test_samples": evaluation.table.samples,
    }


def _draw_inputs(model: pl.LightningModule, loader: Any, attack: Attack, folder: Path) -> None:
    """Decision boundary with the first 200 test points of two classes in a plane, or the first 8 test images."""
    from lsa_lightning.plotting import plot_adversarial_images, plot_decision_boundary

    x, y = (part.to(model.device) for part in next(iter(loader)))
    if x.ndim == 2 and x.shape[1] == 2 and int(y.max()) <= 1:
        x, y = x[:200], y[:200]
        save_figure(plot_decision_boundary(model, x, y, attack(model, x, y)), folder, "decision_boundary")
    elif x.ndim == 4 and x.shape[1] in (1, 3):
        x, y = x[:8], y[:8]
        x_adv = attack(model, x, y)
        with evaluating(model), torch.no_grad():
            clean, adversarial = predicted_labels(model(x)), predicted_labels(model(x_adv))
        figure = plot_adversarial_images(x, x_adv, y, clean, adversarial, attack.bounds or (0.0, 1.0))
        save_figure(figure, folder, "adversarial_images")


def _what_was_trained(cfg: DictConfig, callbacks: list[Any]) -> dict[str, str]:
    """Model, data and method in words."""
    method = next((c for c in callbacks if hasattr(c, "attack")), None)
    parts = {"attack": "attack", "objective": "objective", "regularizer": "regularizer"}
    return {
        "model": cfg.model.get("backbone", cfg.model)._target_,
        "data": OmegaConf.select(cfg, "data.dataset_cls.path") or cfg.data._target_,
        "method": "normal" if method is None else type(method).__name__,
        **{key: repr(getattr(method, name)) for key, name in parts.items() if hasattr(method, name)},
    }


def _mvl_history(callbacks: list[Any], folder: Path) -> list[dict[str, Any]]:
    """Profile and list after each analysed epoch, also drawn."""
    from lsa_lightning.plotting import plot_mvl_history

    keys = ("epoch", "mvl", "mu", "sigma", "layers", "mean")
    atlr = [callback for callback in callbacks if isinstance(callback, ATLR)]
    history = [{key: entry[key] for key in keys} for callback in atlr for entry in callback.history]
    if history:
        save_figure(plot_mvl_history(history), folder, "mvl_history")
    return history


def _log_results(loggers: list[Any], summary: dict[str, Any], folder: Path, step: int) -> None:
    """Give figures and tables of the run folder to the loggers, and what the test split showed to W&B's summary."""
    import pandas as pd

    rich = rich_loggers(loggers)
    for path in sorted((folder / "figures").glob("*.png")):
        log_image(rich, f"figures/{path.stem}", path, step)
    for name in ("evaluation", "profile"):
        log_table(rich, f"tables/{name}", pd.read_csv(folder / f"{name}.csv"), step)
    for logger in rich:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(_wandb_summary(summary))


def _wandb_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """R&G, accuracies, MVL and raised masking flags, each under a name that runs can be sorted and filtered by."""
    values = {"test/mvl": ", ".join(summary["mvl"]), "test/mu": summary["mu"], "test/sigma": summary["sigma"]}
    values |= {f"test/rg_score_{attack}": score for attack, score in summary["rg_score"].items()}
    for attack, row in summary["accuracy"].items():
        values["test/acc"], *rest = (accuracy / 100 for accuracy in row)  # shares, as val/acc
        values |= {f"test/acc_{attack}_eps_{eps:g}": acc for eps, acc in zip(summary["eps"][1:], rest, strict=True)}
    raised = ", ".join(name for name, flag in summary["masking"].items() if flag["raised"]) or "none"
    return {**values, "test/masking": raised if summary["masking"] else "not checked"}


def _finish(loggers: list[Any], failed: bool) -> None:
    """Close the W&B run, else the next job of a sweep would write into it; one that failed is marked so."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        wandb.finish(exit_code=int(failed))


def _print_end(summary: dict[str, Any], folder: Path) -> None:
    scores = ", ".join(f"{score:.2f} under {attack}" for attack, score in summary["rg_score"].items())
    console.print(f"R&G: {scores}")
    console.print(f"Trained in {summary['training_seconds']:.1f} s. Run folder: {folder}", soft_wrap=True)
    console.print("  " + "  ".join(sorted(p.name for p in folder.iterdir() if p.name[0] != ".")), soft_wrap=True)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(cfg: DictConfig) -> float:
    """Entry point; returns the R&G score under the last evaluation attack, for sweepers that optimise it."""
    if not (output_dir() / "metrics.csv").exists():  # only Hydra's own files are there before the CSV logger comes
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    summary = train(cfg)
    return float(list(summary["rg_score"].values())[-1]) if summary else float("nan")


if __name__ == "__main__":
    main()
