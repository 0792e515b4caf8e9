"""Auto-PGD: projected gradient ascent that chooses its own step size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds, per_sample
from lsa_lightning.attacks.base import Attack, Model, forward_and_gradient
from lsa_lightning.attacks.losses import LOSSES, LossFn, likely_targets, needs_classes, own_losses, targeted_dlr
from lsa_lightning.utils.batch import part_of_batch
from lsa_lightning.utils.checks import choice, function, integer, number, or_none, refuse
from lsa_lightning.utils.renamed import renamed

_MOMENTUM = 0.75


def checkpoints(steps: int) -> list[int]:
    r"""The steps after which APGD reconsiders its step size.

    The first lies at 22 % of the steps; each later period is 3 % shorter than the one before, but not under 6 %. In
    whole steps, rounded down, each at least 1:

    .. math:: p_0 = 0,\quad p_1 = 0.22,\quad p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03,\ 0.06)

    Args:
        steps: number of steps >= 1.

    Returns:
        Rising step numbers in 1..steps.

    Raises:
        ValueError: if ``steps`` is not an integer >= 1.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]

    Source: Croce & Hein 2020, arXiv 2003.01690, section 3.
    """
    period = max(22 * integer("checkpoints", "steps", steps, low=1) // 100, 1)
    decrement, shortest = max(3 * steps // 100, 1), max(6 * steps // 100, 1)
    numbers, at = [], period
    while at <= steps:
        numbers.append(at)
        period = max(period - decrement, shortest)
        at += period
    return numbers


class APGD(Attack):
    r"""Auto-PGD: ascent with momentum whose step size, 2 eps at first, is halved per sample where it does not help.

    .. math::
        z_{t+1} = \Pi(x_t + \eta_t\, d(\nabla_x L(x_t))), \qquad
        x_{t+1} = \Pi(x_t + 0.75 (z_{t+1} - x_t) + 0.25 (x_t - x_{t-1}))

    At each of the :func:`checkpoints`, a sample's step size is halved, and it goes on from its best point, if fewer
    than ``rho`` times the steps since the last checkpoint increased the loss, or if the step size was not halved there
    and the best loss has not changed since. No sample influences another.

    Args:
        eps: radius >= 0.
        steps: number of steps >= 1.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        loss: ``"ce"`` (cross-entropy) or ``"dlr"`` (:func:`~lsa_lightning.attacks.losses.dlr`, three classes or more).
        n_targets: None: away from the label. n >= 1: towards each of the n most likely wrong classes in turn (all of
            them if there are fewer), with :func:`~lsa_lightning.attacks.losses.targeted_dlr`; needs ``loss="dlr"`` and
            four classes or more.
        n_restarts: runs from a random start >= 1, per target.
        n_eot: passes >= 1 per step, whose losses and gradients are averaged: more than one for models that draw random
            numbers (expectation over transformation). Misclassified is then what is so in each of them.
        rho: share of the steps that must increase the loss, in [0, 1].
        best: what is returned. ``"loss"``, for training: the iterate of highest loss. ``"success"``, for evaluation:
            the first misclassified point, which is x itself if the model errs there, else the highest loss; samples
            that are fooled are not attacked further.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random starts, or None.
        loss_fn: ``(logits, y) -> [N]``, what it increases instead of ``loss``. Labels need then be no classes, unless
            ``best`` is ``"success"``.

    Raises:
        ValueError: if an argument is outside its range; when called, if the model has too few classes for the loss.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> x = torch.randn(4, 2)
        >>> x_adv = APGD(eps=0.5, steps=5, norm="L2", loss="dlr", bounds=None)(model, x, torch.tensor([0, 1, 2, 0]))
        >>> bool(((x_adv - x).norm(dim=1) <= 0.5).all())
        True

    Source: Croce & Hein 2020, arXiv 2003.01690, Algorithm 1.
    """

    @renamed(targets="n_targets", restarts="n_restarts")
    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 50,
        *,
        norm: str = "Linf",
        loss: str = "ce",
        n_targets: int | None = None,
        n_restarts: int = 1,
        n_eot: int = 1,
        rho: float = 0.75,
        best: str = "loss",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        self.steps = integer(self, "steps", steps, low=1)
        self.loss = choice(self, "loss", loss, LOSSES)
        self.n_targets = or_none(integer, self, "n_targets", n_targets, low=1)
        if self.n_targets is not None and self.loss != "dlr":
            refuse(self, "n_targets", "None, or an integer >= 1 with loss='dlr'", n_targets)
        self.loss_fn: LossFn | None = or_none(function, self, "loss_fn", loss_fn)
        if self.loss_fn is not None and (self.loss != "ce" or self.n_targets is not None):
            refuse(self, "loss_fn", "given instead of loss and n_targets", loss_fn)
        self.n_restarts = integer(self, "n_restarts", n_restarts, low=1)
        self.n_eot = integer(self, "n_eot", n_eot, low=1)
        self.rho = number(self, "rho", rho, low=0, high=1)
        self.best = choice(self, "best", best, ("loss", "success"))

    @property
    def needs_classes(self) -> bool:
        """Not for a loss of one's own, unless misclassified points are looked for."""
        return needs_classes(self.loss_fn) or self.best == "success"

    @property
    def min_classes(self) -> int:
        """Two for the cross-entropy, three for DLR, four for targeted DLR."""
        return LOSSES[self.loss][1] if self.n_targets is None else 4

    def start(self, ball: Ball) -> Tensor:
        """Random, at distance eps."""
        return ball.boundary_point(self.generator(ball.x.device))

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """All restarts and targets; the best point of each sample."""
        logits = self._clean_logits(model, x)
        best = _Best.of(x)
        if self.best == "success" and logits is not None:
            best.fooled = ~self.standing(logits, y)
        for target in self._rounds(logits, y):
            start = self.start(ball)  # for all samples, so that nobody's random numbers depend on who was fooled
            left = best.standing() if self.best == "success" else torch.arange(len(x), device=x.device)
            if len(left) == 0:
                break
            goal = _Goal(self._losses, y[left], None if target is None else target[left])
            with part_of_batch(left, len(x)):
                best.merge(left, self._run(model, goal, start[left], ball.select(left)))
        return best.x

    def _clean_logits(self, model: Model, x: Tensor) -> Tensor | None:
        """Where they are asked for: to see who is fooled, or to choose targets."""
        if self.best != "success" and self.n_targets is None:
            return None
        with torch.no_grad():
            return model(x)

    def _rounds(self, logits: Tensor | None, y: Tensor) -> Iterator[Tensor | None]:
        """The target classes ``[N]`` of one run after the other; None where there is no target."""
        for _ in range(self.n_restarts):
            if self.n_targets is None or logits is None:
                yield None
            else:
                yield from likely_targets(logits, y, self.n_targets)

    def _run(self, model: Model, goal: _Goal, start: Tensor, ball: Ball) -> _Best:
        """One ascent from ``start``, of those samples alone that still stand."""
        fooled, loss, gradient = self._look(model, goal, start)
        best, climb = _Best.of(start), _Climb(goal, ball, start, loss, gradient)
        climb = self._without_fooled(climb, fooled, best)
        checks, last_check = checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            if len(climb.left) == 0:
                break
            climb.move(1.0 if step == 1 else _MOMENTUM)
            with part_of_batch(climb.left, len(start)):
                fooled, loss, gradient = self._look(model, climb.goal, climb.x)
            climb.observe(loss, gradient)
            climb = self._without_fooled(climb, fooled, best)
            if step in checks:
                climb.reconsider((step - last_check) * self.rho)
                last_check = step
        self._checks.numbers(climb.finite.view(1), _check_finite)
        best.put(climb.left, climb.best_x, climb.best_loss, fooled=False)
        return best

    def _look(self, model: Model, goal: _Goal, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Who is misclassified, if asked for, losses and their gradient: of one pass, or the mean of several."""
        logits, loss, gradient = forward_and_gradient(model, x, goal)
        fooled = ~self.standing(logits, goal.labels) if self.best == "success" else None
        for _ in range(1, self.n_eot):
            logits, other_loss, other_gradient = forward_and_gradient(model, x, goal)
            fooled = None if fooled is None else fooled & ~self.standing(logits, goal.labels)
            loss, gradient = loss + other_loss, gradient + other_gradient
        return fooled, loss / self.n_eot, gradient / self.n_eot

    def _without_fooled(self, climb: _Climb, fooled: Tensor | None, best: _Best) -> _Climb:
        """The ascent of those who still stand; the points of the others go to ``best``."""
        if fooled is not None and bool(fooled.any()):
            best.put(climb.left[fooled], climb.x[fooled], climb.loss[fooled], fooled=True)
            climb = climb.select(~fooled)
        return climb

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is increased where there is no target, ``[N]``."""
        if self.loss_fn is not None:
            return own_losses(self.loss_fn, logits, labels)
        return LOSSES[self.loss][0](logits, labels)


@dataclass
class _Goal:
    """The loss of a run as a function of the logits."""

    losses: LossFn
    labels: Tensor
    targets: Tensor | None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.targets is not None:
            return targeted_dlr(logits, self.labels, self.targets)
        return self.losses(logits, self.labels)

    def select(self, samples: Tensor) -> _Goal:
        """That of some samples."""
        return _Goal(self.losses, self.labels[samples], None if self.targets is None else self.targets[samples])


@dataclass
class _Best:
    """The point to return for each sample: the first that fools the model, until then the one of highest loss."""

    x: Tensor
    loss: Tensor
    fooled: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Best:
        """Nothing is better than ``x`` yet."""
        lowest = x.new_full((len(x),), -torch.inf, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        return cls(x.clone(), lowest, torch.zeros_like(lowest, dtype=torch.bool))

    def standing(self) -> Tensor:
        """Indices of the samples that are not fooled."""
        return (~self.fooled).nonzero().flatten()

    def put(self, samples: Tensor, x: Tensor, loss: Tensor, *, fooled: bool | Tensor) -> None:
        """Take over the points of some samples, given by their indices."""
        self.x[samples], self.loss[samples], self.fooled[samples] = x, loss.to(self.loss.dtype), fooled

    def merge(self, samples: Tensor, other: _Best) -> None:
        """Take over each point of some samples that is better."""
        x, loss = self.x[samples], self.loss[samples]
        better = other.fooled | (other.loss > loss)
        x, loss = other.x.where(per_sample(better, x), x), other.loss.where(better, loss)
        self.put(samples, x, loss, fooled=other.fooled)


class _Climb:
    """The state of one ascent; each sample has its own step size. ``left`` are the samples that it is about."""

    def __init__(self, goal: _Goal, ball: Ball, start: Tensor, loss: Tensor, gradient: Tensor) -> None:
        self.goal, self.ball = goal, ball
        self.left = torch.arange(len(start), device=start.device)
        self.x = self.previous = self.best_x = start
        self.loss = self.best_loss = self.best_loss_at_check = loss
        self.gradient = self.best_gradient = gradient
        self.step_size = torch.full_like(loss, 2 * ball.eps)
        self.increases = torch.zeros_like(loss)
        self.halved = torch.ones_like(loss, dtype=torch.bool)  # there was no checkpoint yet at which it could fail
        self.finite = loss.isfinite().all()

    def select(self, samples: Tensor) -> _Climb:
        """The ascent of some samples."""
        chosen = copy.copy(self)
        for name, values in vars(self).items():
            if name != "finite":
                parts = values.select(samples) if isinstance(values, _Goal | Ball) else values[samples]
                setattr(chosen, name, parts)
        return chosen

    def move(self, momentum: float) -> None:
        """One step."""
        ahead = self.ball.ascend(self.x, self.gradient, per_sample(self.step_size, self.x))
        inertia = (1 - momentum) * (self.x - self.previous)
        self.previous, self.x = self.x, self.ball.project(self.x + momentum * (ahead - self.x) + inertia)

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        """What the step led to."""
        self.increases = self.increases + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        self.finite = self.finite & loss.isfinite().all()
        self._keep_best(loss > self.best_loss)

    def _keep_best(self, better: Tensor) -> None:
        wide = per_sample(better, self.x)
        self.best_x = self.x.where(wide, self.best_x)
        self.best_gradient = self.gradient.where(wide, self.best_gradient)
        self.best_loss = self.loss.where(better, self.best_loss)

    def reconsider(self, enough: float) -> None:
        """At a checkpoint: halve, and restart from the best point, after fewer increases than ``enough``, or none."""
        stuck = ~self.halved & (self.best_loss == self.best_loss_at_check)
        self.halved = (self.increases < enough) | stuck
        self.step_size = self.step_size.where(~self.halved, self.step_size / 2)
        self._return_to_best(self.halved)
        self.increases = torch.zeros_like(self.increases)
        self.best_loss_at_check = self.best_loss

    def _return_to_best(self, chosen: Tensor) -> None:
        wide = per_sample(chosen, self.x)
        self.x = self.best_x.where(wide, self.x)
        self.gradient = self.best_gradient.where(wide, self.gradient)
        self.loss = self.best_loss.where(chosen, self.loss)


def _check_finite(flag: list[float]) -> None:
    """A loss is not finite where the model's gradients are not."""
    if not all(flag):
        msg = "expected a model with finite logits and gradients, got a loss that is NaN or infinite"
        raise ValueError(msg)
