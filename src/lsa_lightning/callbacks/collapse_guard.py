"""Notices when the penalty of AT-LR is won by a layer that stopped looking at its input."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lsa_lightning.functional import relative_spread

SPREAD_FLOOR = 0.05
"""Spread below which a representation counts as constant over the batch."""

CHANCE_SHARE = 0.98
"""Share of the chance loss from which on the base loss counts as standing at chance."""

EVERY = 10
"""Batches from one that is measured to the next: a collapse lasts, and measuring costs as much as the penalty."""


class CollapseGuard:
    r"""Warns once when a regularized layer is constant over the batch while the base loss stands at chance.

    The spread of a layer is :math:`\|\phi(x) - \bar\phi\|_F / \|\phi(x)\|_F` over a batch with mean
    :math:`\bar\phi`, averaged over the first batch of an epoch and every tenth from there. Chance is the entropy of
    the epoch's labels, the cross-entropy of the best constant prediction. Labels that are not integers give no chance,
    and no warning. A layer that was constant when it was first regularized, such as a batch norm whose weight begins at
    0, counts once it has varied.
    """

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}
        self._varied: set[str] = set()
        self._warned = False
        self.forget_epoch()

    def forget_epoch(self) -> None:
        """Forget the batches of an epoch, which is over or begins again."""
        self._spreads: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []

    @torch.no_grad()
    def update(self, clean: Mapping[str, Tensor], y: Tensor) -> None:
        """Add a batch: the clean representations of the regularized layers and the labels."""
        measured = len(self._labels) % EVERY == 0
        self._labels.append(y.detach())
        for name, representation in clean.items() if measured else ():
            spread = relative_spread(representation)
            self._first.setdefault(name, spread)
            self._spreads.setdefault(name, []).append(spread)

    def check(self, base_loss: float) -> None:
        """Close an epoch with its mean base loss; NaN, if it has none, gives no warning."""
        spreads = {name: float(torch.stack(values).mean()) for name, values in self._spreads.items()}
        chance = _entropy(torch.cat([y.flatten() for y in self._labels])) if self._labels else math.inf
        self.forget_epoch()
        largest = {name: max(spread, float(self._first[name])) for name, spread in spreads.items()}
        self._varied |= {name for name, spread in largest.items() if spread >= SPREAD_FLOOR}
        collapsed = {name: spread for name, spread in spreads.items() if spread < SPREAD_FLOOR and name in self._varied}
        if collapsed and base_loss >= CHANCE_SHARE * chance and not self._warned:
            self._warned = True
            layers = ", ".join(f"{name} (spread {spread:.4f} of its norm)" for name, spread in collapsed.items())
            rank_zero_warn(
                f"The penalty has made layers constant over the batch: {layers}, while the base loss {base_loss:.3f} "
                f"stands at chance ({chance:.3f}). Lower gamma, start later (warmup_epochs, TrainingRamp), or use "
                "RelativeSquaredError, which a constant layer cannot satisfy."
            )


def _entropy(labels: Tensor) -> float:
    """Entropy of the distribution of integer labels in nats; infinite for other labels."""
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        return math.inf
    shares = torch.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * shares.log()).sum())
