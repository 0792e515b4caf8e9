"""Attacks on what layers output."""

from __future__ import annotations

from lsa_lightning.attacks.apgd import APGD
from lsa_lightning.attacks.balls import Bounds
from lsa_lightning.attacks.layer_loss import LayerLoss
from lsa_lightning.layers.resolve import LayerSpec
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.regularizers import LayerwiseRegularizer


class LayerAttack(APGD):
    r"""How far can a layer be moved at all? Auto-PGD on its comparison measure; labels are not used.

    .. math:: \max_{\|\hat x - x\| \le \epsilon} CM(\phi_l(x), \phi_l(\hat x))

    Returned is the iterate of the largest measure. That has many local maxima (in Linf, nearly one per corner of the
    ball), which is why there are restarts. As an attack of an analysis it gives the profile's upper envelope,
    one layer at a time.

    Args:
        eps: radius >= 0.
        steps: number of steps >= 1.
        layers: name of the layer; or several, whose measures are summed; None: all learnable layers.
        measure: the comparison measure; None: the relative error.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        n_restarts: runs from a random start >= 1.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random starts, or None.

    Raises:
        ValueError: if an argument is outside its range; when called, if the model is no ``nn.Module`` or a layer does
            not exist.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ELU(), torch.nn.Linear(8, 3))
        >>> attack = LayerAttack(eps=0.1, steps=5, layers="1")
        >>> attack(net, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 50,
        *,
        layers: LayerSpec | str = None,
        measure: ComparisonMeasure | None = None,
        norm: str = "Linf",
        n_restarts: int = 5,
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        loss = LayerLoss(LayerwiseRegularizer(gamma=1.0, measure=measure), layers=layers, cross_entropy=0.0)
        super().__init__(eps, steps, norm=norm, n_restarts=n_restarts, bounds=bounds, seed=seed, loss_fn=loss)


class AdaptiveAttack(APGD):
    r"""The attack that knows of AT-LR: Auto-PGD on the cross-entropy and the layer-wise penalty together.

    .. math:: \max_{\|\hat x - x\| \le \epsilon} CE(f(\hat x), y) + \sum_l \gamma_l\, CM(\phi_l(x), \phi_l(\hat x))

    A network that was trained to hold its layers still where the plain attacks look is attacked where it moves them.
    Evaluate with it beside them, not instead of them: the penalty has many local maxima, and where it outweighs the
    cross-entropy they find what this one does not.

    Args:
        eps: radius >= 0.
        steps: number of steps >= 1.
        regularizer: gamma and measure; None: gamma 1 and the relative error.
        layers: which layers; None: the learnable layers after their activation.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        n_restarts: runs from a random start >= 1.
        best: ``"loss"``, to train with, or ``"success"``, to evaluate; see :class:`~lsa_lightning.attacks.APGD`.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random starts, or None.

    Raises:
        ValueError: if an argument is outside its range; when called, if the model is no ``nn.Module`` or a layer does
            not exist.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ELU(), torch.nn.Linear(8, 3))
        >>> attack = AdaptiveAttack(eps=0.1, steps=5, regularizer=LayerwiseRegularizer(gamma=0.1))
        >>> attack(net, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 50,
        *,
        regularizer: LayerwiseRegularizer | None = None,
        layers: LayerSpec | str = None,
        norm: str = "Linf",
        n_restarts: int = 1,
        best: str = "success",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        loss = LayerLoss(regularizer, layers=layers)
        super().__init__(
            eps, steps, norm=norm, n_restarts=n_restarts, best=best, bounds=bounds, seed=seed, loss_fn=loss
        )
