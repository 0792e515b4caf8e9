"""Projected gradient ascent."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds, per_sample
from lsa_lightning.attacks.base import GradientAttack, Model, forward_and_gradient
from lsa_lightning.attacks.losses import LossFn
from lsa_lightning.functional import kl_divergence
from lsa_lightning.utils.batch import part_of_batch
from lsa_lightning.utils.checks import choice, flag, integer


class PGD(GradientAttack):
    r"""Projected gradient descent on the negative loss: ``steps`` steepest-ascent steps, each projected.

    .. math:: x_{t+1} = \Pi\big(x_t + \alpha\, d(\nabla_x CE(f(x_t), y))\big)

    where d is the sign (Linf) or the unit vector (L2).

    Args:
        eps: radius >= 0.
        alpha: step size > 0; None: 2.5 eps / steps (2/255 for the defaults).
        steps: number of steps >= 1.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        random_start: start uniformly in the Linf ball, or in the L2 ball with a uniform direction and radius.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random start, or None.
        best: what is returned. ``"last"``: the last iterate. ``"success"``, for evaluation: the first misclassified
            point, which is x itself if the model errs there, else the last iterate. At a fixed ``alpha`` and start,
            more steps then never find less.
        loss_fn: ``(logits, y) -> [N]``, what it increases; None: the cross-entropy. Labels need then be no classes,
            unless ``best`` is ``"success"``.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> x = torch.randn(4, 2)
        >>> x_adv = PGD(eps=0.5, norm="L2", bounds=None)(model, x, torch.tensor([0, 1, 2, 0]))
        >>> bool(((x_adv - x).norm(dim=1) <= 0.5).all())
        True

    Source: Madry et al. 2018, arXiv 1706.06083.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        alpha: float | None = None,
        *,
        steps: int = 10,
        norm: str = "Linf",
        random_start: bool = True,
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        best: str = "last",
        loss_fn: LossFn | None = None,
    ) -> None:
        self.steps = integer(self, "steps", steps, low=1)
        super().__init__(eps, alpha, norm=norm, bounds=bounds, seed=seed, loss_fn=loss_fn)
        self.random_start = flag(self, "random_start", random_start)
        self.best = choice(self, "best", best, ("last", "success"))

    def _default_alpha(self) -> float:
        return 2.5 * self.eps / self.steps

    @property
    def needs_classes(self) -> bool:
        """Not for a loss of one's own, unless misclassified points are looked for."""
        return super().needs_classes or self.best == "success"

    def start(self, ball: Ball) -> Tensor:
        """Random in the ball, or its centre."""
        return ball.random_point(self.generator(ball.x.device)) if self.random_start else ball.x

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """All steps from the start; the last iterate, or the first that fooled the model."""
        x_adv = self.start(ball)
        if self.best == "success":
            return self._until_fooled(model, x_adv, y, ball)
        for _ in range(self.steps):
            x_adv = ball.ascend(x_adv, self.gradient(model, x_adv, y), self.alpha)
        return x_adv

    def _until_fooled(self, model: Model, x_adv: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Each sample stays at the first point, of x and the iterates, that is misclassified."""
        with torch.no_grad():
            standing = self.standing(model(ball.x), y)
        return self._on_standing(model, ball.x.where(per_sample(~standing, x_adv), x_adv), y, ball, standing)

    def _on_standing(self, model: Model, x_adv: Tensor, y: Tensor, ball: Ball, standing: Tensor) -> Tensor:
        """The steps, of those samples alone that still stand: who is fooled costs nothing any more."""
        left, points = torch.arange(len(y), device=y.device), x_adv
        x_adv = x_adv.clone()
        for _ in range(self.steps):
            if not bool(standing.all()):
                left, points, y, ball = left[standing], points[standing], y[standing], ball.select(standing)
            if len(left) == 0:
                return x_adv
            with part_of_batch(left, len(x_adv)):
                logits, _, gradient = forward_and_gradient(model, points, partial(self.loss, y=y))
            standing = self.standing(logits, y)
            x_adv.index_copy_(0, left, points)
            points = ball.ascend(points, gradient, self.alpha)
        return x_adv.index_copy_(0, left[standing], points[standing])


class TPGD(GradientAttack):
    r"""The inner attack of TRADES: PGD on :math:`KL(p(x) \,\|\, p(x'))` from a start ``x + 0.001 N(0, 1)``.

    The labels are not used.

    Args:
        eps: radius >= 0.
        alpha: step size > 0; None: eps / 4 (2/255 for the default eps).
        steps: number of steps >= 1.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the start, or None.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Zhang et al. 2019, arXiv 1901.08573.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        alpha: float | None = None,
        *,
        steps: int = 10,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        self.steps = integer(self, "steps", steps, low=1)
        super().__init__(eps, alpha, norm=norm, bounds=bounds, seed=seed)

    def _default_alpha(self) -> float:
        return self.eps / 4

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """KL divergence from the clean prediction, whose logits are given as ``y``."""
        return kl_divergence(y, logits).sum()

    def start(self, ball: Ball) -> Tensor:
        """A hair away from the centre, where the divergence has no gradient; farther where rounding would undo it."""
        noise = torch.empty_like(ball.x).normal_(generator=self.generator(ball.x.device))
        unit = torch.finfo(noise.dtype).eps * ball.x.abs()
        return ball.project(ball.x + unit.clamp_min(0.001) * noise)

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """All steps; the last iterate."""
        with torch.no_grad():
            clean_logits = model(x)
        x_adv = self.start(ball)
        for _ in range(self.steps):
            x_adv = ball.ascend(x_adv, self.gradient(model, x_adv, clean_logits), self.alpha)
        return x_adv
