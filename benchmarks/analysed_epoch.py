"""Time of an epoch of AT-LR with the analysis of its layers over that of one without, on MNIST.

    python -m benchmarks.analysed_epoch [--pairs 10] [--part 0.02] [--device cuda]

Model B, PGD-10, robust validation by FGSM and PGD-20, as in ``lsa-train data=mnist model=cnn``. Both splits are cut to
the same part of their 58,000 and 2,000 images, which leaves the ratio as it is; random images stand in for digits.
Every other epoch of one fit is analysed; the list of layers is fixed, so that the steps cost the same.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import lightning.pytorch as pl
import torch
from benchmarks.pairs import Ratio, save
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, RobustClassifier, RobustValidation
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.models import CNN, Normalize

EPS, TRAIN, VALIDATION = 0.3, 58_000, 2_000


class Clock(pl.Callback):
    """Seconds of each epoch, validation and analysis included."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch begins."""
        self._started = self._now()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """It is over."""
        self.epochs.append(self._now() - self._started)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def loader(size: int) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.rand(size, 1, 28, 28), torch.randint(10, (size,))), batch_size=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--part", type=float, default=0.02)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    validation = {"fgsm": FGSM(EPS), "pgd": PGD(EPS, steps=20, best="success")}
    radii = [0.1, 0.2, 0.3, 0.4, 0.5]
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        max_epochs=2 * (args.pairs + 1),  # the first two show the step what it needs
        callbacks=[
            ATLR(PGD(EPS), mvl=["backbone.act2"], analysis_every_n_epochs=2),
            RobustValidation(validation, rg_attack="fgsm", rg_eps=radii),
            clock,
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = RobustClassifier(CNN(), normalize=Normalize([0.1307], [0.3081]))
    trainer.fit(module, loader(int(args.part * TRAIN)), loader(int(args.part * VALIDATION)))
    ratio = Ratio.of(clock.epochs[3::2], clock.epochs[2::2])
    print(f"an analysed epoch over one that is not: {ratio}")
    save("analysed_epoch", {"part": args.part, "ratio": ratio})


if __name__ == "__main__":
    main()
