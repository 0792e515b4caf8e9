"""How a checkpoint finds its way back to its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.folder import CONFIG_FILE


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
