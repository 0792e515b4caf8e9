"""How far each attack and noise moves the layers of a normally trained model A on Moon (the paper's analysis figures).

    python benchmarks/moon_layers.py [--seeds 3] [--eps 0.3] [--output benchmarks/results/moon_layers.json]

Prints, layer by layer, relative errors relative to those under FGSM. PGD is run twice: in the same Linf ball as FGSM,
and in the L2 ball of the length of FGSM's perturbation, eps * sqrt(2) in the plane. The noises stay in the Linf ball.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import lightning.pytorch as pl
import torch

from lsa_lightning import LayerSustainabilityAnalysis, MoonDataModule, RobustClassifier
from lsa_lightning.attacks import FGSM, PGD, Attack, GaussianNoise, PepperNoise, SaltNoise, SpeckleNoise
from lsa_lightning.models import MLP

NOISES = ("gaussian", "speckle", "salt", "pepper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/moon_layers.json"))
    args = parser.parse_args()
    errors = {seed: measure(seed, args.eps, args.epochs) for seed in range(args.seeds)}
    for seed, profile in errors.items():
        print(f"seed {seed}, eps {args.eps}: relative error / that under FGSM, layers 0 to 2")
        for name, row in profile.items():
            ratios = [value / fgsm for value, fgsm in zip(row, profile["fgsm"], strict=True)]
            print(
                f"  {name:9}", " ".join(f"{value:.4f} ({ratio:5.3f})" for value, ratio in zip(row, ratios, strict=True))
            )
    verdict = {name: sum(ordered(profile, name) for profile in errors.values()) for name in ("pgd_linf", "pgd_l2")}
    for name, count in verdict.items():
        print(f"{name} > fgsm > every noise, at every layer: {count} of {args.seeds} seeds")
    versions = {name: version(name) for name in ("torch", "lsa-lightning")}
    result = {"eps": args.eps, "epochs": args.epochs, "device": "cpu", "versions": versions}
    args.output.write_text(json.dumps({**result, "ordered_seeds": verdict, "relative_error": errors}, indent=2) + "\n")


def measure(seed: int, eps: float, epochs: int) -> dict[str, list[float]]:
    """Mean relative error of each layer, by attack."""
    pl.seed_everything(seed, verbose=False)
    data, model = MoonDataModule(seed=seed), RobustClassifier(MLP())
    pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(model, data)
    attacks: dict[str, Attack] = {
        "pgd_linf": PGD(eps, bounds=None),
        "pgd_l2": PGD(eps * 2**0.5, norm="L2", bounds=None),
        "fgsm": FGSM(eps, bounds=None),
        "gaussian": GaussianNoise(eps, bounds=None),
        "speckle": SpeckleNoise(eps, bounds=None),
        "salt": SaltNoise(eps, bounds=None),
        "pepper": PepperNoise(eps, bounds=None),
    }
    analysis = LayerSustainabilityAnalysis(model)
    loader = data.test_dataloader()
    return {name: analysis.run(loader, attack).mean.tolist() for name, attack in attacks.items()}


def ordered(profile: dict[str, list[float]], pgd: str) -> bool:
    """Whether PGD moves every layer more than FGSM, and FGSM more than every noise."""
    errors = torch.tensor([profile[pgd], profile["fgsm"], *(profile[name] for name in NOISES)])
    return bool((errors[0] > errors[1]).all() and (errors[1] > errors[2:]).all())


if __name__ == "__main__":
    main()
