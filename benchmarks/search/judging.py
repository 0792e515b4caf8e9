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


def judged(setting: Setting, net: nn.Module, test: tuple[Tensor, Tensor]) -> dict[str, list[float]]:
    """Metrics in percent, each with a value per seed."""
    return exact(setting, net, test) if test[0].shape[2:] == (2,) else attacked(setting, net, test)


def exact(setting: Setting, net: nn.Module, test: tuple[Tensor, Tensor]) -> dict[str, list[float]]:
    """Accuracy at each radius by the lower bounds of the grid, which no attack can undercut, and their sum."""
    single, grid = setting.network(), PlaneGrid()
    by_seed = []
    for index, (x, y) in enumerate(zip(*test, strict=True)):
        load(net, index, into=single)
        low, _ = grid.radii(single, x, y, reach=setting.radii[-1])
        by_seed.append([100 * float((low > eps).double().mean()) for eps in setting.radii])
    columns = {f"exact {eps:g}": [own[k] for own in by_seed] for k, eps in enumerate(setting.radii)}
    return {**columns, "R&G": [sum(own) for own in by_seed]}


def attacked(setting: Setting, net: nn.Module, test: tuple[Tensor, Tensor]) -> dict[str, list[float]]:
    """Clean accuracy, and what stands under AutoAttack at the setting's radius, and under the adaptive attacks too."""
    single = setting.network().to(setting.device)
    found: dict[str, list[float]] = {}
    for index, (x, y) in enumerate(zip(*test, strict=True)):
        load(net, index, into=single)
        for name, share in standing(setting, single.eval(), x, y).items():
            found.setdefault(name, []).append(share)
    return found


def standing(setting: Setting, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Shares in percent of the samples that stand after each attack in turn."""
    options: dict[str, Any] = {"bounds": setting.bounds, "seed": 0}
    attacks = AutoAttack(setting.eps, n_queries=1000, **options).attacks
    for gamma in (0.3, 3.0):
        regularizer = LayerwiseRegularizer(gamma, measure=RelativeSquaredError())
        attacks[f"adaptive {gamma:g}"] = AdaptiveAttack(setting.eps, regularizer=regularizer, **options)
    everything = Ensemble(setting.eps, bounds=setting.bounds, attacks=attacks)
    shares = {name: 100 * float(stands.double().mean()) for name, _, stands in everything.in_turn(model, x, y)}
    return {**shares, "all attacks": min(shares.values())}
