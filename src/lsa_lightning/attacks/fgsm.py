"""One-step attacks."""

from __future__ import annotations

from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import GradientAttack, Model
from lsa_lightning.attacks.losses import LossFn


class FGSM(GradientAttack):
    r"""Fast gradient sign method, :math:`\hat x = x + \epsilon\, d(\nabla_x CE(f(x), y))`.

    d is the sign for Linf, and the unit vector for L2 (the fast gradient method).

    Args:
        eps: radius >= 0.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        loss_fn: ``(logits, y) -> [N]``, what it increases; None: the cross-entropy. Labels need then be no classes.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> x = torch.rand(4, 2)
        >>> x_adv = FGSM(eps=0.1)(model, x, torch.tensor([0, 1, 0, 1]))
        >>> bool(((x_adv - x).abs() <= 0.1).all())
        True

    Source: Goodfellow et al. 2015, arXiv 1412.6572.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        loss_fn: LossFn | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, loss_fn=loss_fn)

    def _default_alpha(self) -> float:
        return self.eps

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """One full step."""
        return ball.ascend(x, self.gradient(model, x, y), self.alpha)


class FFGSM(GradientAttack):
    r"""FGSM from a random start, the attack of "fast" adversarial training (AT-FAST).

    A random start in the ball (Linf: uniform), one step of ``alpha``, projection.

    Args:
        eps: radius >= 0.
        alpha: step size > 0; None: 1.25 eps.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random start, or None.
        loss_fn: ``(logits, y) -> [N]``, what it increases; None: the cross-entropy. Labels need then be no classes.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Wong et al. 2020, arXiv 2001.03994.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        alpha: float | None = None,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:
        super().__init__(eps, alpha, norm=norm, bounds=bounds, seed=seed, loss_fn=loss_fn)

    def _default_alpha(self) -> float:
        return 1.25 * self.eps

    def start(self, ball: Ball) -> Tensor:
        """Random in the ball."""
        return ball.random_point(self.generator(ball.x.device))

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Random start, one step."""
        start = self.start(ball)
        return ball.ascend(start, self.gradient(model, start, y), self.alpha)
