"""AutoAttack: the ensemble that robust accuracies are reported under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lsa_lightning.attacks.apgd import APGD
from lsa_lightning.attacks.balls import Bounds
from lsa_lightning.attacks.base import Attack
from lsa_lightning.attacks.ensemble import Ensemble
from lsa_lightning.attacks.fab import FAB
from lsa_lightning.attacks.square import Square
from lsa_lightning.utils.checks import choice, integer


class AutoAttack(Ensemble):
    """AutoAttack, with the attacks and settings of its authors.

    ==========  ==================================================================================
    version     attacks in turn
    ==========  ==================================================================================
    standard    ``apgd_ce``, ``apgd_t``, ``fab_t``, ``square``
    plus        ``apgd_ce``, ``apgd_dlr`` and ``fab`` with restarts, ``square``, ``apgd_t``, ``fab_t``
    rand        ``apgd_ce``, ``apgd_dlr``, each gradient averaged over several passes
    ==========  ==================================================================================

    ``rand`` is for models that draw random numbers. What needs more classes than the model has (targeted APGD four,
    DLR three) is left out, with a warning; run it over a data set with
    :func:`~lsa_lightning.evaluation.evaluate_ensemble`, which says so in its result.

    Args:
        eps: radius >= 0, of all attacks.
        norm: ``"Linf"`` or ``"L2"``, of all attacks.
        version: ``"standard"``, ``"plus"`` or ``"rand"``.
        bounds: smallest and largest valid input value, or None, of all attacks.
        seed: seed of all attacks, or None.
        steps: steps of APGD and FAB >= 1.
        n_targets: target classes of the targeted attacks >= 1.
        n_queries: queries of Square >= 1.
        n_restarts: restarts of the untargeted attacks of ``plus`` >= 1.
        n_eot: passes per gradient of ``rand`` >= 1.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> list(AutoAttack(eps=8 / 255).attacks), list(AutoAttack(eps=8 / 255, version="rand").attacks)
        (['apgd_ce', 'apgd_t', 'fab_t', 'square'], ['apgd_ce', 'apgd_dlr'])

    Source: Croce & Hein 2020, arXiv 2003.01690.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        version: str = "standard",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        steps: int = 100,
        n_targets: int = 9,
        n_queries: int = 5000,
        n_restarts: int = 5,
        n_eot: int = 20,
    ) -> None:
        self.version = choice(self, "version", version, _VERSIONS)
        sizes = {"steps": steps, "n_targets": n_targets, "n_queries": n_queries}
        sizes |= {"n_restarts": n_restarts, "n_eot": n_eot}
        checked = {name: integer(self, name, size, low=1) for name, size in sizes.items()}
        members = _Members(**checked, options={"eps": eps, "norm": norm, "bounds": bounds, "seed": seed})
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed, attacks=_VERSIONS[version](members))


@dataclass(frozen=True)
class _Members:
    """The attacks that versions are made of."""

    steps: int
    n_targets: int
    n_queries: int
    n_restarts: int
    n_eot: int
    options: dict[str, Any]

    def standard(self) -> dict[str, Attack]:
        return {"apgd_ce": self._apgd(), "apgd_t": self._apgd_t(), "fab_t": self._fab_t(), "square": self._square()}

    def plus(self) -> dict[str, Attack]:
        return {
            "apgd_ce": self._apgd(n_restarts=self.n_restarts),
            "apgd_dlr": self._apgd(loss="dlr", n_restarts=self.n_restarts),
            "fab": FAB(steps=self.steps, n_restarts=self.n_restarts, **self.options),
            "square": self._square(),
            "apgd_t": self._apgd_t(),
            "fab_t": self._fab_t(),
        }

    def rand(self) -> dict[str, Attack]:
        return {"apgd_ce": self._apgd(n_eot=self.n_eot), "apgd_dlr": self._apgd(loss="dlr", n_eot=self.n_eot)}

    def _apgd(self, **settings: Any) -> APGD:
        return APGD(steps=self.steps, best="success", **settings, **self.options)

    def _apgd_t(self) -> APGD:
        return self._apgd(loss="dlr", n_targets=self.n_targets)

    def _fab_t(self) -> FAB:
        return FAB(steps=self.steps, n_targets=self.n_targets, **self.options)

    def _square(self) -> Square:
        return Square(n_queries=self.n_queries, rescale_schedule=False, **self.options)


_VERSIONS: dict[str, Callable[[_Members], dict[str, Attack]]] = {
    "standard": _Members.standard,
    "plus": _Members.plus,
    "rand": _Members.rand,
}
