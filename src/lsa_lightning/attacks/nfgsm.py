"""The noise-FGSM, a training attack whose points leave the ball."""

from __future__ import annotations

from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import GradientAttack, Model
from lsa_lightning.attacks.losses import LossFn
from lsa_lightning.utils.checks import number


class NFGSM(GradientAttack):
    r"""N-FGSM: noise wider than the ball, and one step from there that is projected on the bounds alone. To train with.

    .. math:: \hat x = B\big(x + u + \alpha\, \mathrm{sign}(\nabla_x CE(f(B(x + u)), y))\big),
        \quad u \sim U[-k \epsilon, k \epsilon]

    where B clamps to the bounds. One step thus trains without catastrophic overfitting, at the price of FGSM. The
    result may be as far from x as :attr:`reach`, k eps + alpha, which is more than eps: such an attack is none to
    evaluate with, and evaluations refuse it.

    Args:
        eps: radius >= 0 that is trained for.
        alpha: step size > 0; None: eps.
        k: half width >= 0 of the noise in units of eps.
        norm: name of the norm: ``"Linf"``, or ``"L2"`` with noise of a uniform direction and radius.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the noise, or None.
        loss_fn: ``(logits, y) -> [N]``, what it increases; None: the cross-entropy. Labels need then be no classes.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> attack = NFGSM(eps=0.1, bounds=None, seed=0)
        >>> import torch
        >>> x = torch.zeros(4, 2)
        >>> x_adv = attack(torch.nn.Linear(2, 3), x, torch.tensor([0, 1, 2, 0]))
        >>> attack.eps, round(attack.reach, 6), bool(((x_adv - x).abs() <= attack.reach).all())
        (0.1, 0.3, True)

    Source: de Jorge et al. 2022, arXiv 2202.01181, Algorithm 1.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        alpha: float | None = None,
        *,
        k: float = 2.0,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:
        self.k = number(self, "k", k, low=0)
        super().__init__(eps, alpha, norm=norm, bounds=bounds, seed=seed, loss_fn=loss_fn)

    def _default_alpha(self) -> float:
        return self.eps

    @property
    def reach(self) -> float:
        """K eps + alpha."""
        return self.k * self.eps + self.alpha

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Noise, then one step, each within the bounds."""
        noisy, reached = (type(ball)(x, radius, self.bounds) for radius in (self.k * self.eps, self.reach))
        start = noisy.random_point(self.generator(x.device))
        return reached.ascend(start, self.gradient(model, start, y), self.alpha)
