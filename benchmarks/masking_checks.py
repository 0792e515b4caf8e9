"""Which masking flags are raised by models whose gradients are masked on purpose, and by honest ones.

    python -m benchmarks.masking_checks DATA_ROOT

Needs DATA_ROOT/MNIST/raw. Trains two networks on moons and four on MNIST, wraps one of each data set in every way of
masking, and prints the flags of all. "missed" is a masked model without a flag, "false alarm" an honest one with one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.mnist_models import Batch, cnn, fit, mlp, mnist, seed_everything, write
from tests.helpers import masked_models as masked
from torch import Tensor, nn

from lsa_lightning import MoonDataModule
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.models import MLP

PLANTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "saturated logits": masked.SaturatedLogits,
    "saturated probabilities": masked.SaturatedProbabilities,
    "quantised input": partial(masked.QuantisedInput, step=0.1),
    "stochastic layer": partial(masked.StochasticInput, std=0.1),
    "no gradient": masked.Detached,
    "non-differentiable step": masked.HardLabels,
    "gradients clipped to 1e-40": masked.TinyGradient,
    "gradients clipped to one side": masked.OneSidedGradient,
    "shattered gradients": masked.ShatteredGradient,
    "gradients right at the data": masked.RightAtTheDataAlone,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/masking_checks.json"))
    args = parser.parse_args()
    seed_everything(0)
    found: dict[str, dict[str, Any]] = {"honest": {}, "planted": {}}
    for name, model, test, options in honest(args):
        checks = MaskingChecks(n_samples=args.samples, **options)
        found["honest"][name] = report(name, checks, model, test)
        if name.endswith("normal") and "mlp on MNIST" not in name:
            for way, wrap in PLANTED.items():
                if not (way == "gradients right at the data" and "moons" in name):  # moons lie on no grid
                    found["planted"][f"{name}, {way}"] = report(f"  {way}", checks, wrap(model), test)
    missed = [name for name, flags in found["planted"].items() if not any(f["raised"] for f in flags.values())]
    alarms = [name for name, flags in found["honest"].items() if any(f["raised"] for f in flags.values())]
    print(f"planted: {len(found['planted'])}, missed: {missed}")
    print(f"honest: {len(found['honest'])}, false alarms: {alarms}")
    settings = {"train_size": args.train_size, "samples": args.samples}
    write(args.output, {"settings": settings, "missed": missed, "false_alarms": alarms, **found}, "torchvision")


def honest(args: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Batch, dict[str, Any]]]:
    """Six networks with their test data and the options of their checks."""
    data = MoonDataModule(test_size=args.samples)
    data.setup()
    train, test = (_pair(data.splits[i].tensors) for i in (0, 2))
    moons: dict[str, Any] = {"eps": 0.3, "bounds": None}
    yield "model A on moons, normal", fit(MLP(), train, 20), test, moons
    yield "model A on moons, PGD", fit(MLP(), train, 20, PGD(0.3, steps=5, bounds=None)), test, moons
    train, test = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, args.samples)
    digits = {"eps": 0.1}
    yield "cnn on MNIST, normal", fit(cnn(), train, 2), test, digits
    yield "cnn on MNIST, FGSM", fit(cnn(), train, 3, FGSM(0.1)), test, digits
    yield "cnn on MNIST, PGD", fit(cnn(), train, 3, PGD(0.2, steps=5)), test, digits
    yield "mlp on MNIST, normal", fit(mlp(), train, 3), test, digits


def _pair(tensors: tuple[Tensor, ...]) -> Batch:
    return tensors[0], tensors[1]


def report(name: str, checks: MaskingChecks, model: nn.Module, test: Batch) -> dict[str, Any]:
    """Run the checks and print which flags are raised."""
    flags = {key: flag.to_dict() for key, flag in checks.run(model, [test]).items()}
    print(f"{name:34}", ", ".join(key for key, flag in flags.items() if flag["raised"]) or "-", flush=True)
    return flags


if __name__ == "__main__":
    main()
