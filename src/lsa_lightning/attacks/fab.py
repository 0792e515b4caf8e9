"""FAB: a search for the nearest misclassified point, along linear models of the decision boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds, per_sample
from lsa_lightning.attacks.base import Attack, Model, forward_and_gradients
from lsa_lightning.attacks.losses import lead, likely_targets
from lsa_lightning.functional import check_finite, count_classes, predicted_labels
from lsa_lightning.utils.batch import part_of_batch
from lsa_lightning.utils.checks import choice, integer, number, or_none

_FAR = 1e18
"""A bound where there is none."""

_FLAT = 1e-12
"""Share of the steepest coordinate's slope below which a coordinate is flat, and stays where it is."""

_SHORTEST = 1e-8
"""Ways shorter than this count as so long, so that two of no length have a ratio."""


class FAB(Attack):
    r"""Fast adaptive boundary attack: steps to the nearest decision boundary of the linearised model, drawn towards x.

    .. math::
        x_{t+1} = B\big((1 - a)(x_t + \eta\, \delta_t) + a\,(x + \eta\, \delta)\big), \qquad
        a = \min\Big(\frac{\|\delta_t\|}{\|\delta_t\| + \|\delta\|},\ \alpha_{max}\Big)

    where :math:`\delta_t` and :math:`\delta` are the shortest ways from :math:`x_t` and x into the hyperplane
    (:func:`to_hyperplane`) and B clamps to the bounds. A misclassified point is kept if it is the nearest so far, and
    the search goes on from :math:`x + \beta (x_{t+1} - x)`. There is no step size to choose, and scaling the logits
    changes nothing. No sample influences another.

    Returned is the nearest misclassified point found, which is x itself if the model errs there; where it is farther
    away than eps, or none was found, what the ball has in that direction.

    Args:
        eps: radius >= 0.
        steps: number of steps >= 1.
        norm: ``"Linf"`` or ``"L2"``; there is no search for others.
        n_targets: None: to the nearest boundary with any class, which takes a gradient per class. n >= 1: to the
            boundary with each of the n most likely wrong classes in turn (all of them if there are fewer), a gradient
            per step. Samples that are misclassified within eps are not attacked further.
        n_restarts: runs >= 1, per target: the first from x, the others from random points at half of eps.
        alpha_max: most that a step is drawn towards x, in [0, 1].
        eta: overshoot >= 1 beyond the hyperplane.
        beta: share of the way from x to a misclassified point from where the search goes on, in (0, 1].
        bounds: smallest and largest valid input value, or None.
        seed: seed of the random starts, or None.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
        >>> x_adv = FAB(eps=0.5, steps=5, norm="L2", n_targets=2, bounds=None)(model, x, y)
        >>> bool(((x_adv - x).norm(dim=1) <= 0.5).all())
        True

    Source: Croce & Hein 2020, arXiv 1907.02044, Algorithm 1; targeted: arXiv 2003.01690, section 5.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 100,
        *,
        norm: str = "Linf",
        n_targets: int | None = None,
        n_restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        choice(self, "norm", norm, _GEOMETRIES)
        self.steps = integer(self, "steps", steps, low=1)
        self.n_targets = or_none(integer, self, "n_targets", n_targets, low=1)
        self.n_restarts = integer(self, "n_restarts", n_restarts, low=1)
        self.alpha_max = number(self, "alpha_max", alpha_max, low=0, high=1)
        self.eta = number(self, "eta", eta, low=1)
        self.beta = number(self, "beta", beta, above=0, high=1)

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """All restarts and targets; the nearest misclassified point of each sample, projected."""
        with torch.no_grad():
            logits = model(x)
        check_finite(logits)
        nearest = _Nearest.of(x)
        nearest.distance[predicted_labels(logits) != y.flatten()] = 0
        for start, targets in self._rounds(logits, y, ball):
            left = (nearest.distance > ball.eps).nonzero().flatten()
            if len(left) == 0:
                break
            with part_of_batch(left, len(x)):
                found = self._run(model, y[left], [target[left] for target in targets], start[left], ball.select(left))
            nearest.merge(left, found)
        return ball.project(nearest.x)

    def _rounds(self, logits: Tensor, y: Tensor, ball: Ball) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
        """Start of each run, and the classes ``[N]`` whose boundaries it goes to."""
        targets = likely_targets(logits, y, self.n_targets or count_classes(logits))
        for restart in range(self.n_restarts):
            for chosen in [targets] if self.n_targets is None else [[target] for target in targets]:
                yield (self.random_start(ball) if restart else ball.x), chosen

    def random_start(self, ball: Ball) -> Tensor:
        """Half the way to a random point at distance eps."""
        # Drawn for all samples, so that nobody's random numbers depend on who was fooled.
        return ball.project(ball.x + 0.5 * (ball.boundary_point(self.generator(ball.x.device)) - ball.x))

    def _run(self, model: Model, labels: Tensor, targets: Sequence[Tensor], start: Tensor, ball: Ball) -> _Nearest:
        """One search; the last point of samples that it never saw misclassified."""
        points, nearest = start, _Nearest.of(start)
        for _ in range(self.steps):
            points = self._step(points, *self._boundary(model, points, labels, targets), ball)
            with torch.no_grad():
                logits = model(points)
            check_finite(logits)
            misclassified = predicted_labels(logits) != labels.flatten()
            nearest.put(points, _GEOMETRIES[self.norm].length(points - ball.x), misclassified)
            back = (ball.x + self.beta * (points - ball.x)).to(points.dtype)
            points = back.where(per_sample(misclassified, points), points)
        nearest.x = nearest.x.where(per_sample(nearest.distance.isfinite(), points), points)
        return nearest

    def _boundary(
        self, model: Model, points: Tensor, labels: Tensor, targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Lead of the class whose linearised boundary is nearest, ``[N]``, and its gradient."""
        leads = [partial(lead, labels=labels, classes=target) for target in targets]
        pairs = map(_finite, forward_and_gradients(model, points, leads)[1])
        gap, normal = next(pairs)
        nearest = self._distance(gap, normal)
        for value, gradient in pairs:
            distance = self._distance(value, gradient)
            closer = distance < nearest
            nearest, gap = distance.minimum(nearest), value.where(closer, gap)
            normal = gradient.where(per_sample(closer, gradient), normal)
        return gap, normal

    def _distance(self, leads: Tensor, gradient: Tensor) -> Tensor:
        """How far away a linearised boundary is, ``[N]``."""
        return leads.abs() / _GEOMETRIES[self.norm].slope(gradient).clamp_min(_FLAT)

    def _step(self, points: Tensor, leads: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
        """Over the hyperplane, drawn towards x."""
        geometry, wide = _GEOMETRIES[self.norm], torch.promote_types(points.dtype, torch.float32)
        here, x, normal = (tensor.flatten(1).to(wide) for tensor in (points, ball.x, gradient))
        gap = -leads.to(wide)
        way = to_hyperplane(here, normal, gap, self.norm, self.bounds)
        way_from_x = to_hyperplane(x, normal, gap - (normal * (x - here)).sum(1), self.norm, self.bounds)
        lengths = [geometry.length(each).clamp_min(_SHORTEST) for each in (way, way_from_x)]
        share = (lengths[0] / (lengths[0] + lengths[1])).clamp_max(self.alpha_max)[:, None]
        moved = (1 - share) * (here + self.eta * way) + share * (x + self.eta * way_from_x)
        return moved.clamp(*(self.bounds or (-_FAR, _FAR))).to(points.dtype).view_as(points)


def _finite(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Leads and gradients, which must be finite: of a NaN, no coordinate would move."""
    if not found[1].isfinite().all():
        msg = "expected a model with finite gradients, got some that are NaN or infinite"
        raise ValueError(msg)
    return found


def to_hyperplane(points: Tensor, normal: Tensor, gap: Tensor, norm: str, bounds: Bounds) -> Tensor:
    r"""The shortest way, within the bounds, from each point p to a z with :math:`\langle w, z - p \rangle = gap`.

    Each coordinate moves with a speed of its own (Linf: all alike, L2: :math:`|w_i|`) until it is at its bound, and all
    stop when the hyperplane is reached. Where it does not meet the bounds, all end at theirs, as near as they come.

    Args:
        points: p, within the bounds, ``[N, D]``.
        normal: w, ``[N, D]``.
        gap: ``[N]``.
        norm: ``"Linf"`` or ``"L2"``, by which ways are measured.
        bounds: smallest and largest coordinate, or None.

    Returns:
        z - p, ``[N, D]``.

    Example:
        >>> p, w, gap = torch.tensor([[0.9, 0.5]]), torch.tensor([[1.0, 1.0]]), torch.tensor([0.4])
        >>> to_hyperplane(p, w, gap, "Linf", None), to_hyperplane(p, w, gap, "Linf", (0.0, 1.0))
        (tensor([[0.2000, 0.2000]]), tensor([[0.1000, 0.3000]]))

    Source: arXiv 1907.02044, section 2.2.
    """
    steepest = normal.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(normal.dtype).tiny)
    weight, direction = normal.abs() / steepest, normal.sign() * gap.sign()[:, None]
    moves = weight > _FLAT
    low, high = (-_FAR, _FAR) if bounds is None else bounds
    room = (high - points).where(direction > 0, points - low).clamp_min(0) * moves
    speed = _GEOMETRIES[norm].speed(weight).where(moves, 1)
    time = _arrival(weight * speed * moves, room / speed, gap.abs() / steepest[:, 0])
    return direction * torch.minimum(time[:, None] * speed, room)


def _arrival(rates: Tensor, stops: Tensor, gap: Tensor) -> Tensor:
    r"""The time t with :math:`\sum_i r_i \min(t, s_i) = gap`, ``[N]``; the last stop where there is none."""
    stops, order = stops.sort(dim=1)
    rates = rates.gather(1, order)
    moving = rates.flip(1).cumsum(1).flip(1)
    zero = torch.zeros_like(gap)[:, None]
    travelled = torch.cat([zero, (moving * stops.diff(dim=1, prepend=zero)).cumsum(1)], dim=1)
    passed = (travelled[:, 1:] < gap[:, None]).sum(dim=1, keepdim=True)
    before, rate = torch.cat([zero, stops], dim=1).gather(1, passed), torch.cat([moving, zero], dim=1).gather(1, passed)
    time = before + (gap[:, None] - travelled.gather(1, passed)) / rate
    return torch.minimum(time, stops[:, -1:])[:, 0].nan_to_num(0.0)


@dataclass(frozen=True)
class _Geometry:
    """What the search asks of a norm.

    Attributes:
        order: of the norm.
        dual: of its dual norm.
        speed: ``|w| -> `` how fast each coordinate moves on the shortest way to a hyperplane.
    """

    order: float
    dual: float
    speed: Callable[[Tensor], Tensor]

    def length(self, ways: Tensor) -> Tensor:
        """Norm of each sample, ``[N]``, in float32 at least."""
        return _norm(ways, self.order)

    def slope(self, gradient: Tensor) -> Tensor:
        """Dual norm of each sample's gradient, ``[N]``: what a way of length 1 gains at most."""
        return _norm(gradient, self.dual)


def _norm(values: Tensor, order: float) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(
        values.flatten(1), order, dim=1, dtype=torch.promote_types(values.dtype, torch.float32)
    )
    return norms


_GEOMETRIES = {
    "Linf": _Geometry(torch.inf, 1, torch.ones_like),
    "L2": _Geometry(2, 2, torch.abs),
}


@dataclass
class _Nearest:
    """The nearest misclassified point of each sample so far, and how far away it is."""

    x: Tensor
    distance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Nearest:
        """None is found yet."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return cls(x.clone(), torch.full((len(x),), torch.inf, dtype=dtype, device=x.device))

    def put(self, x: Tensor, distance: Tensor, misclassified: Tensor) -> None:
        """Take over those of the misclassified points that are nearer."""
        nearer = misclassified & (distance < self.distance)
        self.x = x.where(per_sample(nearer, x), self.x)
        self.distance = distance.where(nearer, self.distance)

    def merge(self, samples: Tensor, other: _Nearest) -> None:
        """Take over the points of some samples that are nearer, or the first where none is known."""
        taken = (other.distance < self.distance[samples]) | self.distance[samples].isinf()
        self.x[samples] = other.x.where(per_sample(taken, other.x), self.x[samples])
        self.distance[samples] = other.distance.minimum(self.distance[samples])
