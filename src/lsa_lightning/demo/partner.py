"""What the page computes: the adversarial partner of one input, and what the model makes of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, GaussianNoise, ThreatModel
from lsa_lightning.functional import log_probabilities, predicted_labels
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.outputs import read_logits

ATTACKS: dict[str, Callable[..., Attack]] = {
    "PGD, 20 steps": partial(PGD, steps=20, seed=0),
    "FGSM": FGSM,
    "APGD, 20 steps": partial(APGD, steps=20, seed=0),
    "Gaussian noise": partial(GaussianNoise, seed=0),
}
"""By the name that the page shows: makes the attack from ``eps``, ``norm`` and ``bounds``."""


@dataclass(frozen=True, eq=False)
class Partner:
    """An input and its adversarial partner.

    Attributes:
        x: the input ``[1, ...]``.
        x_adv: its partner, of the same shape.
        clean: probability of each class for ``x``, ``[C]``.
        adversarial: the same for ``x_adv``.
        report: how far each layer moved.
    """

    x: Tensor
    x_adv: Tensor
    clean: Tensor
    adversarial: Tensor
    report: SustainabilityReport


def adversarial_partner(
    model: nn.Module, threat: ThreatModel, attack: str, x: Tensor, measure: ComparisonMeasure | None = None
) -> Partner:
    """Attack one input, whose label is what the model says of it; the same input gives the same partner.

    Args:
        model: maps ``[N, ...]`` to logits.
        threat: norm, radius and bounds.
        attack: a name in :data:`ATTACKS`.
        x: the input ``[1, ...]``.
        measure: compares the layers' representations; None: the relative error.

    Raises:
        ValueError: if the input does not suit the model, or the radius the bounds.

    Example:
        >>> from lsa_lightning.models import MLP
        >>> partner = adversarial_partner(MLP(), ThreatModel(eps=0.1, bounds=None), "FGSM", torch.zeros(1, 2))
        >>> partner.report.layers, partner.clean.shape
        (['act1', 'act2', 'act3'], torch.Size([2]))
    """
    y = predicted_labels(_logits(model, x))
    x_adv = ATTACKS[attack](threat.eps, norm=threat.norm, bounds=threat.bounds)(model, x, y)
    analysis = LayerSustainabilityAnalysis(model, measure=measure)
    report = analysis.run([(x, y)], lambda *_: x_adv, progress=False)
    clean, adversarial = (log_probabilities(_logits(model, it))[0].exp().cpu() for it in (x, x_adv))
    return Partner(x, x_adv, clean, adversarial, report)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return read_logits(model(x))
