"""Which measure kills a ReLU network when all of its layers are penalised?

    python -m benchmarks.killing_measures [--seeds 3] [--gammas 0.1 0.3 1.0] [--epochs 40]

200 of scikit-learn's 8 x 8 digits, a network of four ReLU layers, AT-LR with PGD at eps 0.2, every layer in the list. A
network is dead if its accuracy on the other digits is below 20 %. Writes results/killing_measures.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.mnist_models import Batch, accuracy, seed_everything
from benchmarks.pairs import save
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, LayerwiseRegularizer, RelativeError, RobustClassifier
from lsa_lightning.attacks import PGD
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, RelativeSquaredError
from lsa_lightning.regularizers import TrainingRamp

EPS = 0.2
MEASURES = (RelativeError(), CenteredRelativeError(), RelativeSquaredError())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--ramp", action="store_true", help="gamma from 0 at 10 %% to full at 50 %% of training")
    args = parser.parse_args()
    rows = [row(measure, gamma, args) for measure in MEASURES for gamma in args.gammas]
    save("killing_measures", {"settings": vars(args), "rows": rows})


def row(measure: ComparisonMeasure, gamma: float, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of all seeds, and how many networks are dead."""
    found = [train(measure, gamma, seed, args) for seed in range(args.seeds)]
    dead = sum(clean < 20 for clean, _ in found)
    clean, robust = (sum(values) / len(values) for values in zip(*found, strict=True))
    print(
        f"{measure.name:<24} gamma {gamma:g}: dead {dead} of {args.seeds}, clean {clean:.1f}, PGD {robust:.1f}",
        flush=True,
    )
    return {"measure": measure.name, "gamma": gamma, "dead": dead, "accuracies": found}


def train(measure: ComparisonMeasure, gamma: float, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Accuracy in percent on the other digits, clean and under PGD."""
    seed_everything(seed)
    train_set, test = digits(seed)
    schedule = TrainingRamp() if args.ramp else None
    callback = ATLR(
        PGD(EPS, steps=5),
        regularizer=LayerwiseRegularizer(gamma, measure=measure, schedule=schedule),
        mvl=["learnable"],
        analysis_every_n_epochs=0,
    )
    model = RobustClassifier(network(), optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(*train_set), batch_size=50, shuffle=True))
    return accuracy(model, test), accuracy(model, test, PGD(EPS, steps=20, seed=0))


def digits(seed: int) -> tuple[Batch, Batch]:
    """200 digits to train with, and all others; pixels in [0, 1]."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return (x[order[:200]], y[order[:200]]), (x[order[200:]], y[order[200:]])


def network() -> nn.Sequential:
    """Two convolutions and two hidden linear layers, ReLU after each."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


if __name__ == "__main__":
    main()
