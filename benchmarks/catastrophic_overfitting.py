"""AT-FAST on MNIST with a large eps collapses; the early stop saves the run.

    python -m benchmarks.catastrophic_overfitting DATA_ROOT

Needs DATA_ROOT/MNIST/raw. Trains twice from the same seed, without and with CatastrophicOverfittingStop, and prints
accuracies in percent on the test digits (clean, FGSM, PGD with 20 steps) after each epoch and at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from benchmarks.mnist_models import Batch, accuracy, cnn, mnist, seed_everything, write
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import AdversarialTraining, RobustClassifier
from lsa_lightning.attacks import FFGSM, FGSM, PGD
from lsa_lightning.callbacks import CatastrophicOverfittingStop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--test-size", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--alpha", type=float, default=None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/catastrophic_overfitting.json"))
    args = parser.parse_args()
    train, test = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, args.test_size)
    runs = {name: run(train, test, args, early_stop=name == "early stop") for name in ("no stop", "early stop")}
    settings = {k: v for k, v in vars(args).items() if k not in ("data_root", "output")}
    write(args.output, {"settings": settings, **runs}, "lightning", "torchvision")


def run(train: Batch, test: Batch, args: argparse.Namespace, early_stop: bool) -> dict[str, Any]:
    """Accuracies per epoch, and of the weights that are there in the end."""
    seed_everything(args.seed)
    model = RobustClassifier(cnn(args.width), optimizer=lambda p: _adam(p, args.lr))
    watch = Watch(test, args.eps)
    stop = CatastrophicOverfittingStop(PGD(args.eps, steps=5))
    callbacks = [AdversarialTraining(FFGSM(args.eps, args.alpha)), *([stop] if early_stop else []), watch]
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(*train), batch_size=128, shuffle=True))
    final = watch.measure(model)
    print(f"early stop {early_stop}: at the end {final}, stopped in epoch {stop.stopped_epoch}")
    return {"stopped_epoch": stop.stopped_epoch, "final": final, "epochs": watch.epochs}


def _adam(parameters: Any, lr: float) -> Any:
    import torch

    return torch.optim.Adam(parameters, lr=lr)


class Watch(pl.Callback):
    """Measures on the test digits at each epoch's end, before an early stop takes the weights back."""

    def __init__(self, test: Batch, eps: float) -> None:
        self.test = test
        self.attacks = {"clean": None, "fgsm": FGSM(eps), "pgd": PGD(eps, steps=20, seed=0)}
        self.epochs: list[dict[str, float]] = []

    def measure(self, model: pl.LightningModule) -> dict[str, float]:
        """Accuracy in percent by attack."""
        return {name: accuracy(model, self.test, attack) for name, attack in self.attacks.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the accuracies."""
        self.epochs.append(self.measure(pl_module))
        print(f"epoch {trainer.current_epoch}:", self.epochs[-1], flush=True)


if __name__ == "__main__":
    main()
