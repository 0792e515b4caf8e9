"""The entry points, run in this process and on tiny settings, as a user would start them."""

from __future__ import annotations

import csv
import io
import json
import logging
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from matplotlib.image import imsave
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import MoonDataModule, cli
from lsa_lightning.cli.overrides import as_typed
from lsa_lightning.cli.train import _main
from lsa_lightning.utils.paths import CONF_DIR

QUIET = ("callbacks.progress_bar=null", "+trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false")
SMALL_DATA = ("data.train_size=64", "data.val_size=32", "data.test_size=40", "data.batch_size=32")
FEW_STEPS = (
    "evaluation.attacks.pgd.steps=2",
    "callbacks.robust_validation.attacks.pgd.steps=2",
    "analysis.attacks.pgd.steps=2",
    "evaluation.eps=[0.1,0.3]",
)
FEW_CHECKS = ("evaluation.masking.n_samples=8", "evaluation.masking.steps=1", "evaluation.masking.n_queries=2")
ONE_EPOCH = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
    *QUIET,
    *FEW_STEPS,
    *FEW_CHECKS,
)
TINY = (*ONE_EPOCH, "model.backbone.hidden=[8,8,8]", "optimizer.lr=0.05", *SMALL_DATA)
"""Overrides of lsa-train that make a job last about a second; ``attack.steps`` stays, since not every attack has it."""

FEW_IMAGES = ("data.val_size=4", "data.batch_size=4", "data.num_workers=0", "+trainer.limit_train_batches=1")
FEW_BATCHES = (
    "evaluation.limit_batches=1",
    "analysis.limit_batches=1",
    "evaluation.attacks.pgd.steps=1",
    "evaluation.masking.n_samples=1",
)
TINY_IMAGES = (*ONE_EPOCH, "optimizer.lr=0.0001", *FEW_IMAGES, *FEW_BATCHES)
"""The same for data sets of images, which ``data.root`` must hold."""


def main_in_process(main: Callable[[], Any], *args: str, figures: bool = False) -> None:
    """Call a ``@hydra.main`` function with these command line arguments; errors propagate as they are.

    Figures are drawn only if asked for: that takes two thirds of a tiny ``lsa-evaluate``, a fourth of ``lsa-train``.
    """
    with _clean_hydra(), _drawing(figures), patch.dict("os.environ", {"HYDRA_FULL_ERROR": "1"}):
        _call(main, args)


def main_as_shown(main: Callable[[], Any], *args: str) -> None:
    """The same, but errors are printed to stderr and become ``SystemExit``, which is what a user sees."""
    # Measuring coverage looks to Hydra like a debugger, for which it lets errors through.
    undebugged = patch("hydra._internal.utils.is_under_debugger", lambda: False)
    with _clean_hydra(), undrawn(), patch.dict("os.environ"), undebugged:
        _call(main, args)


def _call(main: Callable[[], Any], args: Sequence[str]) -> None:
    """Hydra composes the configuration once, not first to see whether it sets ``hydra.mode``, unless it may do so."""
    may_sweep = any(word in arg for arg in args for word in ("mode=", "table", "search", "config"))
    once = nullcontext() if may_sweep else patch.object(Hydra, "get_mode", lambda *_, **__: None)
    with once, patch.object(sys, "argv", ["lsa", *args]):
        main()


def run_as_script(name: str, *args: str) -> None:
    """``python -m lsa_lightning.cli.<name>``, but in this process."""
    file = str(Path(cli.__file__).with_name(f"{name}.py"))
    with _clean_hydra(), patch.object(sys, "argv", [file, *args]), suppress(SystemExit):
        runpy.run_path(file, run_name="__main__")


@contextmanager
def composed_job(name: str, overrides: Sequence[str], folder: Path) -> Iterator[DictConfig]:
    """The configuration of one job whose run folder is ``folder``, with Hydra's own set as in a running job."""
    folder.mkdir(parents=True, exist_ok=True)
    with _clean_hydra(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(name, as_typed(overrides), return_hydra_config=True)
        OmegaConf.set_readonly(cfg.hydra, False)
        cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        OmegaConf.set_struct(cfg, True)
        yield cfg


@contextmanager
def _clean_hydra() -> Iterator[None]:
    """Hydra's singletons, and the loggers that our configuration of Hydra's sets up, are afterwards as before."""
    root, config = logging.getLogger(), HydraConfig.instance().cfg
    handlers, level = root.handlers[:], root.level
    others = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    states = [(other.handlers[:], other.propagate) for other in others]
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers, HydraConfig.instance().cfg = handlers, config
        root.setLevel(level)
        for other, state in zip(others, states, strict=True):
            other.handlers, other.propagate = state
        GlobalHydra.instance().clear()


def left_out(args: Sequence[str]) -> list[str]:
    """The nodes that these overrides remove, or set to null."""
    return [arg.lstrip("~").removesuffix("=null") for arg in args if arg.startswith("~") or arg.endswith("=null")]


def tiny_without(*nodes: str) -> list[str]:
    """:data:`TINY` without what lies in ``nodes``, but for the radii, which come from the data set."""
    inside = tuple(f"{node}." for node in nodes)
    return [setting for setting in TINY if not setting.startswith(inside) or setting.startswith("evaluation.eps=")]


def train_tiny(folder: Path, *args: str, figures: bool = False) -> str:
    """Run a job of ``lsa-train`` on tiny settings with ``folder`` as its run folder; what it printed comes back.

    The command line, which composes twice, is left out, and figures are drawn only if asked for: both take long.
    """
    printed = io.StringIO()
    with (
        redirect_stdout(printed),
        _drawing(figures),
        composed_job("train", [*tiny_without(*left_out(args)), *args], folder) as cfg,
        patch.dict("os.environ", {"HYDRA_FULL_ERROR": "1"}),
    ):
        _main.__wrapped__(cfg)
    return printed.getvalue()


def _drawing(figures: bool) -> AbstractContextManager[None]:
    return nullcontext() if figures else undrawn()


@contextmanager
def undrawn() -> Iterator[None]:
    """Files of figures are empty meanwhile, and their pixels blank."""
    with patch.object(Figure, "savefig", _leave_empty), patch.object(Figure, "draw"):
        yield


def _leave_empty(figure: Figure, file: Any, **_: Any) -> None:
    """The file is there, and loggers can read it."""
    if isinstance(file, str | Path):
        Path(file).touch()
        if Path(file).suffix == ".png":
            imsave(file, np.zeros((1, 1)))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, key: str) -> list[tuple[int, float]]:
    """``(epoch, value)`` of each row of metrics.csv that has ``key``."""
    return [(int(row["epoch"]), float(row[key])) for row in read_metrics(folder) if row.get(key)]


class FailsAtTheEnd(pl.Callback):
    """An error when all epochs are trained."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        msg = "planted"
        raise RuntimeError(msg)


class PlainMoonModel(pl.LightningModule):
    """A LightningModule of somebody else's, without a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class PlateauMoonModel(PlainMoonModel):
    """Its learning rate falls where a metric rests."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/own", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/own"}}


class NoisyMoonModel(PlainMoonModel):
    """Draws random numbers in training, from torch's global generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


class PoisonedMoons(MoonDataModule):
    """Moons of which one training point becomes NaN in the second epoch."""

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        x, y = self.splits[0].tensors
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        poisoned = x.clone()
        poisoned[0] = float("nan") if epoch == 1 else x[0]
        return DataLoader(TensorDataset(poisoned, y), batch_size=self.batch_size)


class MoonsInBatches(MoonDataModule):
    """Moons whose test points come 16 at a time, whatever the batches of training are."""

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(self.splits[2], batch_size=16)


class ShuffledMoons(MoonDataModule):
    """Moons whose order in training is drawn from torch's global generator."""

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(self.splits[0], batch_size=self.batch_size, shuffle=True)
