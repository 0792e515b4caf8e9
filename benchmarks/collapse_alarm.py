"""Does the alarm of catastrophic overfitting ring in time and never without need, and what is a gated penalty worth?

    python -m benchmarks.collapse_alarm DATA_ROOT [--runs 10] [--train-size 5000] [--epochs 6]

Needs DATA_ROOT/MNIST/raw. Three kinds of runs, one of each per seed:

- collapsing: FGSM training of model B at --eps. Accuracy under PGD at that radius on test digits is measured every
  --every steps, from the last epoch of the warm-up on. It goes up and down by several points from one measurement to
  the next: it has fallen when the mean of the latest three lies 5 points (--fall) below the best such mean so far. The
  alarm is in time if it rings before the last of these three. What an alarm with LossFell would have done is noted
  beside it.
- healthy: training with PGD at --eps, N-FGSM and FGSM at a third of it by turns, each measured at its own radius. The
  alarm must be silent. N-FGSM at --eps itself, which stood here at first, stays at chance on its own examples (loss
  2.3, noise of 0.6), and the alarm rang in the one run that was tried.
- gated: FGSM training at --eps with AT-LR (relative squared error of all layers and the logits, partners by TPGD in
  --steps steps) gated by the alarm, beside training with PGD in 5 steps: the share of its accuracy under PGD that is
  kept, with the last weights, and the share of its processor time.

eps rises to its full value during the first --warmup epochs: without, training with PGD stays at chance. Seeds 0 and 1
were looked at when the signal was found; --first-seed 10 takes others.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.mnist_models import Batch, accuracy, mnist, seed_everything
from benchmarks.pairs import save
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustClassifier
from lsa_lightning.attacks import FGSM, NFGSM, PGD, TPGD, Attack
from lsa_lightning.callbacks import CollapseAlarm, LossFell, Overshot
from lsa_lightning.callbacks.alarm import StepSeen
from lsa_lightning.measures import RelativeSquaredError
from lsa_lightning.models import CNN
from lsa_lightning.unlabelled import PartOfBatch, Unlabelled

Settings = argparse.Namespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--test-size", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--warmup", type=float, default=3.0, help="epochs in which eps rises")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=2, help="steps to the partners that are penalised")
    parser.add_argument("--every", type=int, default=10, help="steps between two measurements")
    parser.add_argument("--fall", type=float, default=5.0, help="points of accuracy under PGD")
    parser.add_argument("--name", default="collapse_alarm")
    args = parser.parse_args()
    data = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, args.test_size)
    runs = [
        {"kind": kind, "seed": seed, **KINDS[kind](*data, args, seed)}
        for seed in range(args.first_seed, args.first_seed + args.runs)
        for kind in args.kinds
    ]
    settings = {key: value for key, value in vars(args).items() if key not in ("data_root", "name")}
    save(args.name, {"settings": settings, "summary": summary(runs), "runs": runs})


def collapsing(train: Batch, test: Batch, args: Settings, seed: int) -> dict[str, Any]:
    """FGSM at the full radius."""
    return watched("FGSM", FGSM(args.eps), train, test, args, seed)


def healthy(train: Batch, test: Batch, args: Settings, seed: int) -> dict[str, Any]:
    """Training that keeps its robustness."""
    name = ("PGD", "N-FGSM", "FGSM")[seed % 3]
    third = args.eps / 3
    attacks = {"PGD": PGD(args.eps, steps=5), "N-FGSM": NFGSM(third), "FGSM": FGSM(third)}
    return watched(name, attacks[name], train, test, args, seed)


def watched(name: str, attack: Attack, train: Batch, test: Batch, args: Settings, seed: int) -> dict[str, Any]:
    """When the alarm rang, and when accuracy had fallen."""
    signal = Recorded()
    alarm = CollapseAlarm(signal)
    watch = Watch(alarm, test, attack.eps, args)
    fit(AdversarialTraining(attack, eps_warmup_epochs=args.warmup, alarm=alarm), train, args, seed, [watch])
    rang, fell = watch.rang_at, watch.fell_at
    print(f"{attack!r} seed {seed}: rang at {rang}, fell at {fell}, PGD {watch.accuracies[-1][1]:.1f} %", flush=True)
    signals = {key: [round(value, 3) for value in values] for key, values in signal.values.items()}
    found = {"attack": name, "rang_at": rang, "loss_fell_rang_at": ringing(signals["loss_fell"]), "fell_at": fell}
    return {**found, "pgd": watch.accuracies, "signals": signals}


def ringing(values: list[float]) -> int | None:
    """The step at whose beginning an alarm that hears these values has rung."""
    alarm = CollapseAlarm()
    for step, value in enumerate(values, 1):
        alarm.hear(value)
        if alarm.rang:
            return step
    return None


def gated(train: Batch, test: Batch, args: Settings, seed: int) -> dict[str, Any]:
    """The gated penalty on top of FGSM, beside PGD in 5 steps."""
    alarm = CollapseAlarm()
    regularizer = LayerwiseRegularizer(args.gamma, measure=RelativeSquaredError())
    fgsm, pgd = FGSM(args.eps), PGD(args.eps, steps=5)
    # Pairs of FGSM itself would feed the collapse: the partners that are penalised are found in a few steps.
    partners = TPGD(args.eps, args.eps / 2, steps=args.steps)
    layers, unlabelled = ["learnable", "logits"], Unlabelled(PartOfBatch(), attack=partners, only=True)
    penalised = ATLR(
        fgsm,
        regularizer=regularizer,
        mvl=layers,
        analysis_every_n_epochs=0,
        eps_warmup_epochs=args.warmup,
        alarm=alarm,
        gated=True,
        unlabelled=unlabelled,
    )
    methods = {
        "gated": penalised,
        "FGSM": AdversarialTraining(fgsm, eps_warmup_epochs=args.warmup),
        "PGD-5": AdversarialTraining(pgd, eps_warmup_epochs=args.warmup),
    }
    found: dict[str, Any] = {"rang": 0}
    for name, method in methods.items():
        started = time.process_time()
        model = fit(method, train, args, seed, [])
        seconds = time.process_time() - started
        found[name] = {"pgd": accuracy(model, test, PGD(args.eps, steps=50, seed=0)), "seconds": seconds}
        found[name]["clean"] = accuracy(model, test)
    found |= {"rang": alarm.rang}
    print(f"gated seed {seed}:", found, flush=True)
    return found


class Recorded(Overshot):
    """Keeps all values, and those of LossFell."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"overshot": [], "loss_fell": []}

    def __call__(self, seen: StepSeen) -> Tensor | None:
        """The share of samples whose loss falls at the end of the step."""
        value, other = super().__call__(seen), LossFell()(seen)
        if value is not None and other is not None:
            self.values["overshot"].append(float(value))
            self.values["loss_fell"].append(float(other))
        return value


class Watch(pl.Callback):
    """Measures accuracy under PGD every few steps, and notes when the alarm first rang."""

    def __init__(self, alarm: CollapseAlarm, test: Batch, eps: float, args: Settings) -> None:
        self.alarm = alarm
        self.test = test
        self.attack = PGD(eps, steps=10, best="success", seed=0)
        self.args = args
        self.rang_at: int | None = None
        self.accuracies: list[tuple[int, float]] = []

    @property
    def fell_at(self) -> int | None:
        """The step at which accuracy, the mean of three measurements, was first found to have fallen."""
        best = 0.0
        latest: tuple[tuple[int, float], ...]
        for latest in zip(*(self.accuracies[k:] for k in range(3)), strict=False):
            mean = statistics.fmean(value for _, value in latest)
            best = max(best, mean)
            if mean < best - self.args.fall:
                return latest[-1][0]
        return None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The alarm has just heard what the step before showed."""
        if self.alarm.rang and self.rang_at is None:
            self.rang_at = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure now and then."""
        if trainer.current_epoch + 1 >= self.args.warmup and trainer.global_step % self.args.every == 0:
            self.accuracies.append((trainer.global_step, accuracy(pl_module, self.test, self.attack)))


def fit(
    method: AdversarialTraining, train: Batch, args: Settings, seed: int, watches: list[pl.Callback]
) -> RobustClassifier:
    """Model B, trained with ``method``."""
    seed_everything(seed)
    model = RobustClassifier(CNN(), optimizer=lambda p: torch.optim.Adam(p, lr=args.lr))
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=[method, *watches],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(*train), batch_size=args.batch_size, shuffle=True))
    return model


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many runs in which accuracy fell an alarm announced, in which others it rang, and what the gate kept."""
    found: dict[str, Any] = {}
    for kind in ("collapsing", "healthy"):
        own = [run for run in runs if run["kind"] == kind]
        fallen = [run for run in own if run["fell_at"] is not None]
        others = [run for run in own if run["fell_at"] is None]
        found[kind] = {"fallen": len(fallen), "not fallen": len(others)}
        for name, key in (("overshot", "rang_at"), ("loss_fell", "loss_fell_rang_at")):
            in_time = sum(run[key] is not None and run[key] < run["fell_at"] for run in fallen)
            rang = sum(run[key] is not None for run in others)
            found[kind][name] = {"before the fall": in_time, "without a fall": rang}
    pairs = [run for run in runs if run["kind"] == "gated"]
    for key in ("pgd", "seconds") if pairs else ():
        found[f"{key} of PGD-5"] = sum(run["gated"][key] for run in pairs) / sum(run["PGD-5"][key] for run in pairs)
    print(found)
    return found


KINDS: dict[str, Callable[[Batch, Batch, Settings, int], dict[str, Any]]] = {
    "collapsing": collapsing,
    "healthy": healthy,
    "gated": gated,
}


if __name__ == "__main__":
    main()
