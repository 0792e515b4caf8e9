"""Several attacks, one after another on the points that still stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lsa_lightning.attacks.apgd import APGD
from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, Model, staying
from lsa_lightning.attacks.composite import CompositeAttack
from lsa_lightning.attacks.input_space import has_space
from lsa_lightning.attacks.square import Square
from lsa_lightning.functional import check_finite, count_classes, predicted_labels
from lsa_lightning.utils.batch import part_of_batch
from lsa_lightning.utils.checks import integer, mapping, or_none, refuse
from lsa_lightning.utils.renamed import renamed


class Ensemble(CompositeAttack):
    """Each attack in turn, on the samples that all before it left correctly classified.

    The default attacks are ``apgd_ce``, ``apgd_t`` (targeted DLR) and ``square``, a quick form of
    :class:`~lsa_lightning.attacks.AutoAttack`. Attacks that need more classes than the model has are left out, with a
    warning. A sample that is misclassified from the start is returned as it is, one that withstands all is returned as
    the last attack left it.

    Args:
        eps: radius >= 0, of all attacks.
        norm: name of the norm of all attacks, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None, of all attacks.
        seed: seed of the default attacks, or None.
        steps: steps of both default APGD attacks >= 1.
        n_targets: target classes of the targeted one >= 1.
        n_queries: queries of Square >= 1.
        attacks: attack by name, at least one, in their order; they take over ``eps``. None: the default ones.

    Raises:
        ValueError: if an argument is outside its range, or an attack has another norm or other bounds.

    Source: Croce & Hein 2020, arXiv 2003.01690.
    """

    @renamed(targets="n_targets")
    def __init__(
        self,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        steps: int = 100,
        n_targets: int = 9,
        n_queries: int = 5000,
        attacks: Mapping[str, Attack] | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        options = {"eps": self.eps, "norm": self.norm, "bounds": self.bounds, "seed": seed}
        sizes = {"steps": steps, "n_targets": n_targets, "n_queries": n_queries}
        sizes = {name: integer(self, name, size, low=1) for name, size in sizes.items()}
        given = or_none(mapping, self, "attacks", attacks, each=staying)
        chosen = _standard(**sizes, options=options) if given is None else given
        if any(map(has_space, chosen.values())):
            what = "attacks in pixels, as InputSpace(mean, std)(Ensemble(attacks=...)) takes the space of all"
            refuse(self, "attacks", what, attacks)
        if any((a.norm, a.bounds) != (self.norm, self.bounds) for a in chosen.values()):
            refuse(self, "attacks", f"attacks with norm={norm!r} and bounds={self.bounds}", attacks)
        self.attacks = {name: attack.with_eps(self.eps) for name, attack in chosen.items()}

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """All attacks that the model has enough classes for."""
        *_, (_, x_adv, _) = self.in_turn(model, x, y)
        return x_adv

    def in_turn(self, model: Model, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The state after no attack (named ``"clean"``) and after each one.

        Args:
            model: see :data:`~lsa_lightning.attacks.base.Model`; in eval mode, if it has one.
            x: inputs ``[N, ...]``.
            y: labels ``[N]``.

        Yields:
            Name, perturbed inputs so far, and which samples still stand, ``[N]``.
        """
        self._check_input(x, y)  # also where nothing stands, so that no attack looks
        logits = _logits(model, x)
        standing = predicted_labels(logits) == y.flatten()
        x_adv = x
        yield "clean", x_adv, standing
        attacks, left_out = self.suitable(count_classes(logits))
        if left_out:
            rank_zero_warn("Left out of the ensemble: " + "; ".join(f"{k}: {v}" for k, v in left_out.items()))
        for name, attack in attacks.items():
            left = standing.nonzero().flatten()
            if len(left) > 0:
                with part_of_batch(left, len(x)):
                    attacked = attack(model, x[left], y[left])
                    stands = predicted_labels(_logits(model, attacked)) == y[left].flatten()
                x_adv = x_adv.index_copy(0, left, attacked)
                standing = standing.index_copy(0, left, stands)
            yield name, x_adv, standing

    def suitable(self, classes: int) -> tuple[dict[str, Attack], dict[str, str]]:
        """The attacks for a model of ``classes`` classes, and by name why the others are left out.

        Raises:
            ValueError: if none is left.
        """
        attacks = {name: attack for name, attack in self.attacks.items() if attack.min_classes <= classes}
        left_out = {
            name: f"needs {attack.min_classes} classes, the model has {classes}"
            for name, attack in self.attacks.items()
            if name not in attacks
        }
        if not attacks:
            msg = f"expected an attack for a model of {classes} classes, got {left_out}"
            raise ValueError(msg)
        return attacks, left_out


def _standard(steps: int, n_targets: int, n_queries: int, options: dict[str, Any]) -> dict[str, Attack]:
    return {
        "apgd_ce": APGD(steps=steps, loss="ce", best="success", **options),
        "apgd_t": APGD(steps=steps, loss="dlr", n_targets=n_targets, best="success", **options),
        "square": Square(n_queries=n_queries, **options),
    }


def _logits(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x.clone())  # some models normalise what they are given in place
    check_finite(logits)
    return logits
