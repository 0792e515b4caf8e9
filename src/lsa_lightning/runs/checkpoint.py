"""How a checkpoint finds its way back to its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lsa_lightning.runs.folder import CONFIG_FILE, training_eps
from lsa_lightning.runs.limits import FirstSamples
from lsa_lightning.runs.read import read_config
from lsa_lightning.runs.trust import NOBODY, Trust

USED = {
    "model": "model",
    "data": "data",
    **dict.fromkeys(("measure", "regularizer.measure", "analysis.measure"), "measure"),
    "evaluation.exact": "plane grid",
    "evaluation.ceiling": "ceiling",
    **dict.fromkeys(("threat", "attack.norm", "evaluation.eps", "callbacks.*.attack.eps"), None),
}
"""All that a :class:`TrainedRun` takes from its configuration."""


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A checkpoint with what it takes to measure it.

    Attributes:
        config: the run's configuration, as it was resolved for training.
        model: the trained model, on the GPU if there is one.
        data: the run's data.
    """

    config: DictConfig
    model: pl.LightningModule
    data: pl.LightningDataModule

    @property
    def data_set(self) -> str:
        """What names the data set."""
        return str(OmegaConf.select(self.config, "data.dataset_cls.path") or self.config.data._target_)

    @property
    def threat(self) -> DictConfig:
        """Norm, eps and bounds of training; a run of before 0.1.0 has its norm in the attack alone."""
        threat = self.config.threat
        norm = threat.get("norm") or OmegaConf.select(self.config, "attack.norm") or "Linf"
        return OmegaConf.create({"norm": norm, "eps": threat.eps, "bounds": threat.bounds})

    @property
    def eval_eps(self) -> list[float]:
        """Radii of the run's evaluation; a run of before 0.1.0 has them in its threat."""
        radii = OmegaConf.select(self.config, "evaluation.eps") or self.config.threat.eval_eps
        return list(radii)

    @property
    def training_eps(self) -> float | None:
        """Radius of the attack that the model was trained with; None for clean data."""
        return training_eps(self.config.get("callbacks"))

    @property
    def measure(self) -> DictConfig | None:
        """The comparison measure of training; None: the default one."""
        nodes = (OmegaConf.select(self.config, key) for key in ("measure", "regularizer.measure", "analysis.measure"))
        return next((node for node in nodes if node is not None), None)


def require_checkpoint(cfg: DictConfig) -> None:
    """Raise a ValueError where ``ckpt_path`` was not given."""
    if OmegaConf.is_missing(cfg, "ckpt_path"):
        msg = "expected ckpt_path=RUN/checkpoints/best.ckpt, got none"
        raise ValueError(msg)


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


def load_run(path: str, data: DictConfig | None = None, trust: Trust = NOBODY) -> TrainedRun:
    """The run that wrote a checkpoint, with the checkpoint's weights in its model.

    Args:
        path: the checkpoint.
        data: entries that replace those of the run's ``data`` where they are not null.
        trust: what the run's configuration may name besides what is known to be harmless.

    Raises:
        ValueError: if the configuration names what is not trusted, or not installed; if there is no such checkpoint, or
            no configuration beside it.
    """
    checkpoint = checkpoint_file(path)
    folder = next((parent for parent in checkpoint.resolve().parents[:2] if (parent / CONFIG_FILE).is_file()), None)
    if folder is None or not _is_of_a_run(folder / CONFIG_FILE):
        found = "none" if folder is None else f"{folder / CONFIG_FILE} of something else"
        msg = (
            f"expected the run's {CONFIG_FILE} beside {checkpoint} or one folder above it, found {found}; for "
            "checkpoints that lsa-train did not write, use LayerSustainabilityAnalysis and RobustnessEvaluation in "
            "Python"
        )
        raise ValueError(msg)
    config = _read_config(folder / CONFIG_FILE, {} if data is None else given(data), trust)
    model: pl.LightningModule = instantiate(config.model, _convert_="all")
    try:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    except (RuntimeError, KeyError) as error:
        msg = f"expected {checkpoint} to hold weights of the model in {folder / CONFIG_FILE}, got others: {error}"
        raise ValueError(msg) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrainedRun(config, model.to(device), instantiate(config.data, _convert_="all"))


def _is_of_a_run(path: Path) -> bool:
    """Whether a configuration makes a model and data, as that of a run does; what is interpolated may."""
    parts = [read_config(path).get(part) for part in ("model", "data")]
    return all("_target_" in part if isinstance(part, dict) else "${" in str(part) for part in parts)


def _read_config(path: Path, data: dict[str, Any], trust: Trust) -> DictConfig:
    """The configuration of a run, with these entries of its data, and harmless in all that is used of it."""
    config = OmegaConf.merge(read_config(path), {"data": data})
    assert isinstance(config, DictConfig)  # as both of its parts
    try:
        trust.check(config, USED)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error
    return config


def given(node: DictConfig) -> dict[str, Any]:
    """The entries of ``node`` that are not null: what a user wants otherwise than the run had it."""
    return {str(key): value for key, value in node.items() if value is not None}


def split_loader(data: pl.LightningDataModule, split: str, limit_samples: int | None = None) -> Any:
    """The dataloader of ``split``, ``"val"`` or ``"test"``, up to a number of samples, if it is given.

    Raises:
        ValueError: for another split, or a number < 1.
    """
    if split not in ("val", "test"):
        msg = f"expected split to be 'val' or 'test', got {split!r}"
        raise ValueError(msg)
    data.prepare_data()
    data.setup("test" if split == "test" else "validate")
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    return loader if limit_samples is None else FirstSamples(loader, limit_samples)
