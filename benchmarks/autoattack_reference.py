"""Our AutoAttack beside that of its authors: the verdict on each image.

    python -m benchmarks.autoattack_reference DATA_ROOT [--models mnist cifar10 digits] [--norm L2] [--again]

Needs the authors' package (``pip install git+https://github.com/fra31/auto-attack``), DATA_ROOT/MNIST/raw and
DATA_ROOT/cifar-10-batches-py. Trains three small networks adversarially, on 8,000 MNIST digits, 4,000 CIFAR-10 images
and 1,400 of scikit-learn's 8 x 8 digits, and runs both versions ``standard`` on the last 400, 300 and 300 test images;
with --again, the authors' once more with another seed, which says how much is chance. Prints and writes the share of
images that both let stand or both fool, and both robust accuracies; models that are not run keep their earlier rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.mnist_models import Batch, cnn, fit, mnist, seed_everything
from benchmarks.pairs import RESULTS, save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

from lsa_lightning.attacks import PGD, AutoAttack
from lsa_lightning.functional import predicted_labels
from lsa_lightning.utils.isolation import evaluating

Verdicts = Tensor
"""Which images stand, ``[N]``."""

Case = tuple[nn.Module, Batch, dict[str, float]]
"""A trained network, the images that it is attacked on, and radii by norm."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--again", action="store_true", help="the authors' with another seed, too")
    options = parser.parse_args()
    name = f"autoattack_reference{'' if options.norm == 'Linf' else '_l2'}"
    file = RESULTS / f"{name}.json"
    rows = json.loads(file.read_text()).get("models", {}) if file.is_file() else {}
    for model in options.models:
        rows[model] = row = compare(*MODELS[model](options.data_root), options.norm, again=options.again)
        print(f"{model}: {row}", flush=True)
        save(name, {"models": rows, "all": together(list(rows.values()))})
    print(f"all: {together(list(rows.values()))}")


def mnist_network(root: Path) -> Case:
    """Two convolutions, PGD training at .2 on 8,000 digits."""
    seed_everything(0)
    net = fit(cnn(), mnist(root, True, 8_000), epochs=3, attack=PGD(0.2, steps=5))
    return net, last(400, mnist(root, False, 10_000)), {"Linf": 0.2, "L2": 1.5}


def cifar10_network(root: Path) -> Case:
    """Three convolutions, PGD training at 8/255 on 4,000 images."""
    seed_everything(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 10))
    fit(net, cifar10(root, True, 4_000), epochs=10, attack=PGD(8 / 255, steps=5))
    return net, last(300, cifar10(root, False, 10_000)), {"Linf": 8 / 255, "L2": 0.5}


def digits_network(_: Path) -> Case:
    """One hidden layer, PGD training at .1 on 1,400 images."""
    seed_everything(0)
    data = load_digits()
    x, y = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(net, (x[:1400], y[:1400]), epochs=40, attack=PGD(0.1, steps=5))
    return net, last(300, (x, y)), {"Linf": 0.1, "L2": 0.5}


MODELS: dict[str, Callable[[Path], Case]] = {
    "mnist": mnist_network,
    "cifar10": cifar10_network,
    "digits": digits_network,
}
"""Case by name."""


def last(n: int, data: Batch) -> Batch:
    return data[0][-n:], data[1][-n:]


def cifar10(root: Path, train: bool, n: int) -> Batch:
    """The first n images of a split: pixels ``[n, 3, 32, 32]`` in [0, 1] and labels."""
    unchecked = type("Unchecked", (CIFAR10,), {"_check_integrity": lambda _: True})
    data = unchecked(root, train=train)
    return torch.from_numpy(data.data[:n]).permute(0, 3, 1, 2).float() / 255, torch.tensor(data.targets[:n])


def compare(net: nn.Module, data: Batch, radii: dict[str, float], norm: str, *, again: bool) -> dict[str, Any]:
    """Verdicts of both, and of theirs with another seed."""
    eps, n = radii[norm], len(data[0])
    ours, seconds = timed(lambda: verdicts_of_ours(net, data, eps, norm))
    theirs, their_seconds = timed(lambda: verdicts_of_theirs(net, data, eps, norm, seed=0))
    twice = verdicts_of_theirs(net, data, eps, norm, seed=1) if again else None
    return {
        "norm": norm,
        "eps": eps,
        "images": n,
        "clean": 100 * float(standing(net, *data).double().mean()),
        "ours": 100 * int(ours.sum()) / n,
        "theirs": 100 * int(theirs.sum()) / n,
        "same_verdict": 100 * int((ours == theirs).sum()) / n,
        "theirs_twice_same_verdict": None if twice is None else 100 * int((twice == theirs).sum()) / n,
        "only_ours_fools": (theirs & ~ours).nonzero().flatten().tolist(),
        "only_theirs_fools": (ours & ~theirs).nonzero().flatten().tolist(),
        "seconds": seconds,
        "their_seconds": their_seconds,
    }


def together(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The same over all images of all models, in percent."""
    n = sum(row["images"] for row in rows)
    share = {key: sum(row[key] * row["images"] for row in rows) / n for key in ("ours", "theirs", "same_verdict")}
    return {"images": n, **share, "ours_minus_theirs": share["ours"] - share["theirs"]}


def verdicts_of_ours(net: nn.Module, data: Batch, eps: float, norm: str) -> Verdicts:
    """In one batch, as the authors' is run."""
    return standing(net, AutoAttack(eps, norm=norm, seed=0)(net, *data), data[1])


def verdicts_of_theirs(net: nn.Module, data: Batch, eps: float, norm: str, seed: int) -> Verdicts:
    """In one batch."""
    reference = their_package()
    attack = reference.AutoAttack(net, norm=norm, eps=eps, version="standard", device="cpu", verbose=False, seed=seed)
    return standing(net, attack.run_standard_evaluation(*data, bs=len(data[0])), data[1])


def their_package() -> Any:
    try:
        return import_module("autoattack")
    except ImportError:
        sys.exit("install the authors' package: pip install git+https://github.com/fra31/auto-attack")


def standing(net: nn.Module, x: Tensor, y: Tensor) -> Verdicts:
    with evaluating(net), torch.no_grad():
        return predicted_labels(net(x)) == y


def timed(run: Callable[[], Verdicts]) -> tuple[Verdicts, float]:
    """The verdicts, and CPU seconds."""
    started = time.process_time()
    return run(), round(time.process_time() - started, 1)


if __name__ == "__main__":
    main()
