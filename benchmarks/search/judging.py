"""The strong evaluation: the exact grid in the plane, AutoAttack and the adaptive attack elsewhere."""

from __future__ import annotations

from typing import Any

from benchmarks.search.training import Setting
from torch import Tensor, nn

from lsa_lightning.attacks import AdaptiveAttack, AutoAttack, Ensemble
from lsa_lightning.evaluation import PlaneGrid
from lsa_lightning.measures import RelativeSquaredError
from lsa_lightning.regularizers import LayerwiseRegularizer
from lsa_lightning.stacked.network import load


def judged(setting: Setting, net: nn.Module, test: tuple[Tensor, Tensor], index: int) -> dict[str, float]:
    """Metrics in percent of one of the stacked networks, on its own test data."""
    single = setting.network().to(setting.device).to(memory_format=setting.layout).eval()
    load(net, index, into=single)
    x, y = (part[index] for part in test)
    judge = exact if x.shape[1:] == (2,) else standing
    return judge(setting, single, x.to(memory_format=setting.layout), y)


def exact(setting: Setting, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy at each radius by the lower bounds of the grid, which no attack can undercut, and their sum."""
    low, _ = PlaneGrid().radii(model, x, y, reach=setting.radii[-1])
    shares = {f"exact {eps:g}": 100 * float((low > eps).double().mean()) for eps in setting.radii}
    return {**shares, "R&G": sum(shares.values())}


def standing(setting: Setting, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Clean accuracy, and the shares of the samples that stand after each attack in turn, the adaptive ones last."""
    options: dict[str, Any] = {"bounds": setting.bounds, "seed": 0}
    attacks = AutoAttack(setting.eps, n_queries=1000, **options).attacks
    for gamma in (0.3, 3.0):
        regularizer = LayerwiseRegularizer(gamma, measure=RelativeSquaredError())
        attacks[f"adaptive {gamma:g}"] = AdaptiveAttack(setting.eps, regularizer=regularizer, **options)
    everything = Ensemble(setting.eps, bounds=setting.bounds, attacks=attacks)
    shares = {name: 100 * float(stands.double().mean()) for name, _, stands in everything.in_turn(model, x, y)}
    return {**shares, "all attacks": min(shares.values())}
