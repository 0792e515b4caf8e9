"""Run folders: what the entry points write, and how a checkpoint finds its way back to its configuration."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lsa_lightning.analysis import LayerSustainabilityAnalysis, SustainabilityReport

CONFIG_FILE = "config.yaml"

console = Console()


def output_dir() -> Path:
    """The run folder that Hydra made for this job."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def group_of(name: str) -> str:
    """The group of this job in W&B: the sweep's folder, which jobs of different names share too, else ``name``."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    return Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else name


# For conf/logger/wandb.yaml.
OmegaConf.register_new_resolver("lsa.group", group_of, replace=True)
OmegaConf.register_new_resolver("lsa.folder", lambda path: Path(path).name, replace=True)


def save_config(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Write the resolved configuration to ``folder`` and return it as plain containers."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    OmegaConf.save(OmegaConf.create(resolved), folder / CONFIG_FILE)
    return resolved  # type: ignore[return-value]


def require_checkpoint(cfg: DictConfig, command: str) -> None:
    """End with one line where ``ckpt_path`` was not given."""
    if OmegaConf.is_missing(cfg, "ckpt_path"):
        msg = f"{command}: expected ckpt_path=RUN/checkpoints/best.ckpt, got none"
        raise SystemExit(msg)


def checkpoint_file(path: str) -> Path:
    """``path``, if there is such a file.

    Raises:
        ValueError: if there is none.
    """
    checkpoint = Path(path)
    if not checkpoint.is_file():
        what = "which is a folder" if checkpoint.is_dir() else "which does not exist"
        msg = f"expected ckpt_path to be a checkpoint file, such as RUN/checkpoints/best.ckpt, got {checkpoint}, {what}"
        raise ValueError(msg)
    return checkpoint


def load_run(cfg: DictConfig) -> tuple[DictConfig, pl.LightningModule, pl.LightningDataModule]:
    """The configuration, the trained model and the data of the run that wrote ``cfg.ckpt_path``.

    Args:
        cfg: the configuration of ``lsa-analyze`` or ``lsa-evaluate``; its ``data`` entries replace the run's own where
            they are not null.

    Raises:
        ValueError: if there is no such checkpoint, or no configuration beside it.
    """
    checkpoint = checkpoint_file(cfg.ckpt_path)
    folder = next((parent for parent in checkpoint.resolve().parents[:2] if (parent / CONFIG_FILE).is_file()), None)
    if folder is None:
        msg = (
            f"expected the run's {CONFIG_FILE} beside {checkpoint} or one folder above it, found none; for checkpoints "
            "that lsa-train did not write, use LayerSustainabilityAnalysis and RobustnessEvaluation in Python"
        )
        raise ValueError(msg)
    run = OmegaConf.load(folder / CONFIG_FILE)
    assert isinstance(run, DictConfig)  # save_config wrote a mapping
    run.data = OmegaConf.merge(run.data, {key: value for key, value in cfg.data.items() if value is not None})
    model: pl.LightningModule = instantiate(run.model, _convert_="all")
    try:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    except (RuntimeError, KeyError) as error:
        msg = f"expected {checkpoint} to hold weights of the model in {folder / CONFIG_FILE}, got others: {error}"
        raise ValueError(msg) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return run, model.to(device), instantiate(run.data, _convert_="all")


def adopt_threat(cfg: DictConfig, run: DictConfig) -> None:
    """Let the attacks of ``cfg`` find the run's eps and bounds."""
    OmegaConf.set_struct(cfg, False)
    cfg.threat = run.threat


def split_loader(data: pl.LightningDataModule, split: str) -> Any:
    """The dataloader of ``split``, ``"val"`` or ``"test"``.

    Raises:
        ValueError: for another split.
    """
    if split not in ("val", "test"):
        msg = f"expected split to be 'val' or 'test', got {split!r}"
        raise ValueError(msg)
    data.prepare_data()
    data.setup("test" if split == "test" else "validate")
    return data.test_dataloader() if split == "test" else data.val_dataloader()


def analyse_and_write(
    cfg: DictConfig, model: pl.LightningModule, loader: Any, folder: Path, max_batches: int | None = None
) -> tuple[dict[str, SustainabilityReport], list[str]]:
    """LSA under each perturber of ``cfg`` (the ``analysis`` node): table, JSON, CSV and figure.

    Returns:
        The reports by perturber, and the MVL under the first of them.
    """
    import pandas as pd

    from lsa_lightning.plotting import plot_profiles

    node = instantiate(cfg, _convert_="all")
    analysis = LayerSustainabilityAnalysis(model, node["layers"], node["measure"])
    reports = {name: analysis.run(loader, attack, max_batches) for name, attack in node["perturbers"].items()}
    mvl = next(iter(reports.values())).most_vulnerable(node["eta"], node["top_k"])
    for name, report in reports.items():
        report.save(folder / f"profile_{name}.json")
    frames = {name: report.to_dataframe() for name, report in reports.items()}
    pd.concat(frames, names=["perturber"]).reset_index(level=0).to_csv(folder / "profile.csv", index=False)
    save_figure(plot_profiles(reports, mvl), folder, "layer_profile")
    print_profiles(reports, mvl)
    return reports, mvl


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write ``figures/<name>.png`` and ``.svg``; the same figure gives the same files."""
    (folder / "figures").mkdir(exist_ok=True)
    figure.savefig(folder / "figures" / f"{name}.png")
    save_svg(figure, folder / "figures" / f"{name}.svg", name)


def save_svg(figure: Figure, file: Path | BinaryIO, name: str) -> None:
    """Write ``figure`` as SVG, which looks alike everywhere and is the same each time."""
    # Letters become paths; without a name of its own, ids would differ each time, as would the date.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write plain containers as indented JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    packages = ("lsa-lightning", "torch", "lightning", "torchmetrics", "hydra-core", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def print_profiles(reports: dict[str, SustainabilityReport], mvl: list[str]) -> None:
    """Mean relative error, layers by perturbers; the MVL is marked."""
    first = next(iter(reports.values()))
    table = Table(title=f"Relative error per layer (mean over {first.samples} samples)", padding=(0, 0, 0, 1))
    table.add_column("#", justify="right")
    table.add_column("layer", overflow="fold")
    for name in reports:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MVL", justify="center", no_wrap=True)
    for i, layer in enumerate(first.layers):
        means = [f"{float(report.mean[i]):.3f}" for report in reports.values()]
        table.add_row(str(i), layer, *means, "*" if layer in mvl else "")
    table.add_section()
    table.add_row("", "mu", *[f"{float(report.mu):.3f}" for report in reports.values()], "")
    table.add_row("", "sigma", *[f"{float(report.sigma):.3f}" for report in reports.values()], "")
    console.print(table)
    console.print(f"MVL under {next(iter(reports))}: {', '.join(mvl) or 'none'}")
