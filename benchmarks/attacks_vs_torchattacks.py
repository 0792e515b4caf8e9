"""Our attacks beside those of torchattacks, with the same starts, on MNIST.

    python -m benchmarks.attacks_vs_torchattacks DATA_ROOT

Needs the extra [attacks] and DATA_ROOT/MNIST/raw. Prints and writes, for three CNNs with BatchNorm and dropout, how far
the perturbed images of FGSM, FFGSM, PGD, PGDL2 and TPGD are apart in float64 and in float32, and how far each library's
float32 images are from the float64 ones ("exact"), which shows whose rounding it is; for three trained models the
accuracy under both libraries' APGD-CE with 50 steps, on the images classified correctly, over several starts; and the
accuracy under attacks of torchattacks and foolbox through ExternalAttack.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.mnist_models import Batch, accuracy, cnn, fit, mlp, mnist, seed_everything, write
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FFGSM, FGSM, PGD, TPGD, Attack, ExternalAttack
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.functional import predicted_labels

EPS, ALPHA, STEPS, EPS_L2, ALPHA_L2 = 0.1, 0.025, 10, 1.0, 0.2
STARTS = 5
Start = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--test-size", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/attacks_vs_torchattacks.json"))
    args = parser.parse_args()
    seed_everything(0)
    train, test = mnist(args.data_root, True, args.train_size), mnist(args.data_root, False, args.test_size)
    result = {
        "train_size": args.train_size,
        "test_size": args.test_size,
        "differences": compare_images(train, test),
        "apgd": compare_apgd(train, test),
        "external": run_external(train, test),
    }
    write(args.output, result, "torchattacks", "foolbox", "torchvision")


def compare_images(train: Batch, test: Batch) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By comparison, attack and model: largest difference over 200 images, and share of pixels over 1e-6."""
    models = [fit(cnn(width), train, epochs=1) for width in (4, 6, 8)]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in pairs():
        for model in models:
            for comparison, one, other in comparisons(name, model, test[0][:200], test[1][:200]):
                row = found.setdefault(comparison, {}).setdefault(name, [])
                row.append(difference(one, other))
    for comparison, rows in found.items():
        for name, row in rows.items():
            shown = ", ".join(f"{d['largest']:.1e} ({d['share_over_1e-6']:.1e})" for d in row)
            print(f"{comparison:38} {name:6} largest difference (share of pixels over 1e-6) on 3 models: {shown}")
    return found


def comparisons(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is compared, and the two sets of images; every start is drawn in float32 or in float64 alike."""
    yield "float64: ours, torchattacks", *both(name, copy.deepcopy(model).double(), x.double(), y)
    ours, theirs = both(name, model, x, y)
    yield "float32: ours, torchattacks", ours, theirs
    exact = perturbed(name, copy.deepcopy(model).double(), x.double(), y, drawn_for=x)
    yield "ours in float32, exact", ours.double(), exact
    yield "torchattacks in float32, exact", theirs.double(), exact


def difference(one: Tensor, other: Tensor) -> dict[str, float]:
    gap = (one - other).abs()
    return {"largest": float(gap.max()), "share_over_1e-6": float((gap > 1e-6).double().mean())}


def pairs() -> dict[str, tuple[Attack, str, dict[str, Any], Start]]:
    """By name: our attack, torchattacks' class and options, and how that class draws its start."""
    linf, l2 = {"eps": EPS, "alpha": ALPHA, "steps": STEPS}, {"eps": EPS_L2, "alpha": ALPHA_L2, "steps": STEPS}
    return {
        "FGSM": (FGSM(EPS), "FGSM", {"eps": EPS}, lambda x: x),
        "FFGSM": (FFGSM(EPS, 1.25 * EPS), "FFGSM", {"eps": EPS, "alpha": 1.25 * EPS}, after_randn),
        "PGD": (PGD(EPS, ALPHA, steps=STEPS), "PGD", linf, uniform),
        "PGDL2": (PGD(EPS_L2, ALPHA_L2, steps=STEPS, norm="L2"), "PGDL2", l2, in_l2_ball),
        "TPGD": (TPGD(EPS, ALPHA, steps=STEPS), "TPGD", linf, nearby),
    }


def uniform(x: Tensor) -> Tensor:
    return (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


def nearby(x: Tensor) -> Tensor:
    return (x + 0.001 * torch.randn_like(x)).clamp(0, 1)


def after_randn(x: Tensor) -> Tensor:
    """FFGSM draws normal numbers and overwrites them."""
    return (x + torch.randn_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


def in_l2_ball(x: Tensor) -> Tensor:
    direction = torch.empty_like(x).normal_()
    length = _length(direction)
    return (x + direction * (torch.zeros_like(length).uniform_(0, 1) / length * EPS_L2)).clamp(0, 1)


def both(name: str, model: nn.Module, x: Tensor, y: Tensor, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Our perturbed images and theirs, from one start."""
    import torchattacks

    _, theirs, options, _ = pairs()[name]
    ours = perturbed(name, model, x, y, drawn_for=x, seed=seed)
    torch.manual_seed(seed)
    return ours, getattr(torchattacks, theirs)(model, **options)(x, y).detach()


def perturbed(name: str, model: nn.Module, x: Tensor, y: Tensor, drawn_for: Tensor, seed: int = 7) -> Tensor:
    """Our perturbed images, from the start that is drawn for ``drawn_for``."""
    attack, _, _, start = pairs()[name]
    if name != "FGSM":
        set_start(attack, lambda _: start(drawn_for).to(x.dtype), seed)
    return attack(model, x, y)


def set_start(attack: Attack, start: Start, seed: int) -> None:
    """Let ``attack`` start at ``start(x)``, drawn from the global random numbers seeded with ``seed``."""

    def seeded(ball: Ball) -> Tensor:
        torch.manual_seed(seed)
        return start(ball.x)

    vars(attack)["start"] = seeded


def compare_apgd(train: Batch, test: Batch) -> dict[str, dict[str, Any]]:
    """Robust accuracy in percent under both, mean over the starts, by model and norm."""
    models = {
        "cnn, normal": (fit(cnn(), train, epochs=2), 0.1, 1.5),
        "cnn, PGD training": (fit(cnn(), train, epochs=3, attack=PGD(0.2, steps=5)), 0.2, 2.0),
        "mlp, FGSM training": (fit(mlp(), train, epochs=3, attack=FGSM(0.1)), 0.1, 1.0),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, (model, eps, eps_l2) in models.items():
        with torch.no_grad():
            correct = predicted_labels(model(test[0])) == test[1]
        data = (test[0][correct], test[1][correct])
        for norm, radius in (("Linf", eps), ("L2", eps_l2)):
            row = [apgd_pair(model, data, norm, radius, seed) for seed in range(STARTS)]
            ours, theirs = (sum(pair[i] for pair in row) / STARTS for i in (0, 1))
            found[f"{name}, {norm}"] = {
                "eps": radius,
                "images": len(data[0]),
                "ours": ours,
                "torchattacks": theirs,
                "each_start": row,
            }
            print(
                f"APGD-CE, 50 steps, {name}, {norm} eps {radius}: ours {ours:.2f}, torchattacks {theirs:.2f} "
                f"on {len(data[0])} images; by start {row}"
            )
    return found


def apgd_pair(model: nn.Module, data: Batch, norm: str, eps: float, seed: int) -> tuple[float, float]:
    """Accuracy on ``data``, all of it correct when clean, under our APGD and theirs from one start."""
    import torchattacks

    x, y = data
    ours = APGD(eps, 50, norm=norm, best="success")
    set_start(ours, functools.partial(apgd_start, norm=norm, eps=eps), seed)
    theirs = torchattacks.APGD(model, norm=norm, eps=eps, steps=50, seed=seed)(x, y)
    return accuracy(model, data, ours, batch_size=len(x)), accuracy(model, (theirs, y))


def apgd_start(x: Tensor, norm: str, eps: float) -> Tensor:
    if norm == "Linf":
        noise = 2 * torch.rand(x.shape) - 1
        return (x + eps * noise / noise.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    noise = torch.randn(x.shape)
    return (x + eps * noise / _length(noise)).clamp(0, 1)


def _length(images: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return length


def run_external(train: Batch, test: Batch) -> dict[str, float]:
    """Accuracy in percent under attacks of both libraries through the adapter, on 200 images."""
    import torchattacks
    from foolbox.attacks import LinfPGD
    from foolbox.attacks.deepfool import LinfDeepFoolAttack

    model = fit(cnn(), train, epochs=1)
    data = (test[0][:200], test[1][:200])
    attacks = {
        "torchattacks.MIFGSM": ExternalAttack(torchattacks.MIFGSM, EPS),
        "torchattacks.APGD": ExternalAttack(functools.partial(torchattacks.APGD, steps=20), EPS),
        "torchattacks.CW, L2": ExternalAttack(functools.partial(torchattacks.CW, steps=20), 1.5, norm="L2"),
        "foolbox.LinfPGD": ExternalAttack(LinfPGD(steps=20), EPS),
        "foolbox.LinfDeepFool": ExternalAttack(LinfDeepFoolAttack(steps=10), EPS),
    }
    found = {"clean": accuracy(model, data)}
    found |= {name: accuracy(model, data, attack, batch_size=200) for name, attack in attacks.items()}
    print("through ExternalAttack:", found)
    return found


if __name__ == "__main__":
    main()
