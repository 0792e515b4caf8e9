"""Attacks written out by hand, in float64 and without the library, but for its seeds: what the library must reach.

Every function takes a model in eval mode. Starts are drawn from the generator of an attack with the given seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lsa_lightning.utils.random import Purpose, generator_of

Model = Callable[[Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits.flatten(), y.to(logits), reduction="sum")
    return F.cross_entropy(logits, y, reduction="sum")


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


def first_stream(seed: int) -> torch.Generator:
    """What an attack with this seed draws from in its first call."""
    return generator_of(seed, Purpose.ATTACK, 0)


def uniform_start(x: Tensor, eps: float, seed: int) -> Tensor:
    return x + torch.empty_like(x).uniform_(-eps, eps, generator=first_stream(seed))


def l2_start(x: Tensor, eps: float, seed: int) -> Tensor:
    generator = first_stream(seed)
    direction = torch.empty_like(x).normal_(generator=generator)
    radius = torch.empty(len(x), 1, dtype=x.dtype).uniform_(0, 1, generator=generator) * eps
    return x + direction / direction.norm(dim=1, keepdim=True) * radius


def normal_start(x: Tensor, seed: int) -> Tensor:
    return x + 0.001 * torch.empty_like(x).normal_(generator=first_stream(seed))


def into_linf(points: Tensor, x: Tensor, eps: float, low: float, high: float) -> Tensor:
    return (x + (points - x).clamp(-eps, eps)).clamp(low, high)


def into_l2(points: Tensor, x: Tensor, eps: float, low: float, high: float) -> Tensor:
    delta = points - x
    length = delta.norm(dim=1, keepdim=True)
    return (x + torch.where(length > eps, delta * eps / length, delta)).clamp(low, high)


def fgsm(model: Model, x: Tensor, y: Tensor, eps: float, low: float, high: float) -> Tensor:
    step = eps * gradient(lambda p: cross_entropy(model(p), y), x).sign()
    return (x + step).clamp(low, high)


def pgd_linf(
    model: Model, x: Tensor, y: Tensor, start: Tensor, eps: float, alpha: float, steps: int, low: float, high: float
) -> Tensor:
    point = into_linf(start, x, eps, low, high)
    for _ in range(steps):
        direction = gradient(lambda p: cross_entropy(model(p), y), point).sign()
        point = into_linf(point + alpha * direction, x, eps, low, high)
    return point


def pgd_l2(
    model: Model, x: Tensor, y: Tensor, start: Tensor, eps: float, alpha: float, steps: int, low: float, high: float
) -> Tensor:
    point = into_l2(start, x, eps, low, high)
    for _ in range(steps):
        ascent = gradient(lambda p: cross_entropy(model(p), y), point)
        point = into_l2(point + alpha * ascent / ascent.norm(dim=1, keepdim=True), x, eps, low, high)
    return point


def probabilities(logits: Tensor) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        one = torch.sigmoid(logits.flatten())
        return torch.stack([1 - one, one], dim=1)
    return torch.softmax(logits, dim=1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(dim=1)


def tpgd(
    model: Model, x: Tensor, start: Tensor, eps: float, alpha: float, steps: int, low: float, high: float
) -> Tensor:
    clean = probabilities(model(x)).detach()
    point = into_linf(start, x, eps, low, high)
    for _ in range(steps):
        direction = gradient(lambda p: kl(clean, probabilities(model(p))).sum(), point).sign()
        point = into_linf(point + alpha * direction, x, eps, low, high)
    return point
