"""A black-box attack: random search with square patches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.attacks.losses import margin
from lsa_lightning.functional import check_finite, predicted_labels
from lsa_lightning.utils.batch import part_of_batch
from lsa_lightning.utils.checks import choice, flag, integer, number

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries out of 10,000 from which on the patches are half as large again."""

_PUBLISHED = 10_000
"""The number of queries that they are published for."""


def patch_share(query: int, n_queries: int, p_init: float) -> float:
    """The share of the image that the patch of one query covers; the published schedule, stretched to ``n_queries``.

    Args:
        query: number of the query, 0..n_queries.
        n_queries: the budget.
        p_init: the share at the start, in (0, 1].

    Returns:
        A share in (0, p_init].

    Example:
        >>> [patch_share(query, 5000, 0.8) for query in (0, 6, 30, 5000)]
        [0.8, 0.4, 0.2, 0.0015625]

    Source: Andriushchenko et al. 2020, arXiv 1912.00049, section 5.
    """
    return p_init / 2.0 ** bisect_right(_HALVINGS, query * _PUBLISHED // n_queries - 1)


def patch_size(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a patch that covers ``share`` of an image: a square, or a strip where no square fits.

    Example:
        >>> patch_size(0.25, 8, 8), patch_size(0.5, 1, 10)
        ((4, 4), (1, 5))
    """
    side, shortest = max(round(math.sqrt(share * height * width)), 1), min(height, width)
    if side <= shortest:
        return side, side
    long = max(round(share * height * width / shortest), 1)
    return (shortest, min(long, width)) if height <= width else (min(long, height), shortest)


def odd_patch_size(share: float, height: int, width: int) -> tuple[int, int]:
    """That of :func:`patch_size`, but of a square the next odd side, at least 3, as far as it fits: a bump's middle.

    Example:
        >>> odd_patch_size(0.25, 8, 8), odd_patch_size(0.001, 28, 28), odd_patch_size(0.5, 1, 10)
        ((5, 5), (3, 3), (1, 5))

    Source: the authors' code for arXiv 1912.00049.
    """
    size, shortest = patch_size(share, height, width), min(height, width)
    if size[0] != size[1] or shortest < 3:
        return size
    side = max(size[0], 3)
    side += side % 2 == 0 and side < shortest
    return side, side


class Square(Attack):
    r"""Square attack: random patches, kept per sample where they lower the margin. Needs no gradient.

    Linf: stripes of ``x +- eps`` at first, then patches of ``x +- eps``, one sign per channel. L2: a tiling of bumps at
    first; then what two patches hold of the perturbation, and what is left of eps, moves into a bump in one of them.
    Inputs ``[N, F]`` count as images of one row, ``[N, C, L]`` as images of one row with C channels.

    A sample is queried until it is misclassified; where it is at once, x itself is returned, and else the point of
    smallest margin. Patches differ between samples, and no sample influences another.

    Args:
        eps: radius >= 0.
        n_queries: number of patches tried >= 1.
        norm: ``"Linf"`` or ``"L2"``; there is no search for others.
        p_init: share of the image that the first patches cover, in (0, 1].
        rescale_schedule: whether the sizes of the patches, which are published for 10,000 queries, are stretched to
            ``n_queries``; else query k of any number has the patch of query k of 10,000.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the patches, or None.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Andriushchenko et al. 2020, arXiv 1912.00049.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        n_queries: int = 5000,
        *,
        norm: str = "Linf",
        p_init: float = 0.8,
        rescale_schedule: bool = True,
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        choice(self, "norm", norm, _SEARCHES)
        self.n_queries = integer(self, "n_queries", n_queries, low=1)
        self.p_init = number(self, "p_init", p_init, above=0, high=1)
        self.rescale_schedule = flag(self, "rescale_schedule", rescale_schedule)

    @torch.no_grad()
    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Random search on the samples that still stand."""
        search = _SEARCHES[self.norm](x, ball, self.generator(x.device))
        logits = model(x)
        standing = predicted_labels(logits) == y.flatten()
        best_x, best_margin = x, torch.full_like(margin(logits, y), torch.inf)
        for query in range(self.n_queries):
            share = patch_share(query, self.n_queries if self.rescale_schedule else _PUBLISHED, self.p_init)
            # Drawn for all samples, so that nobody's patches depend on who was fooled.
            candidate = search.start() if query == 0 else search.propose(best_x, share)
            left = standing.nonzero().flatten()
            if len(left) == 0:
                break
            with part_of_batch(left, len(x)):
                logits = model(candidate[left])
            check_finite(logits)
            values = margin(logits, y[left])
            better = left[values < best_margin[left]]
            best_x = best_x.index_copy(0, better, candidate[better])
            best_margin = best_margin.index_copy(0, left, values.minimum(best_margin[left]))
            standing = standing.index_copy(0, left, predicted_labels(logits) == y[left].flatten())
        return best_x


class _Search(ABC):
    """Draws candidates; x is seen as images ``[N, C, H, W]``."""

    def __init__(self, x: Tensor, ball: Ball, generator: torch.Generator) -> None:
        self.ball = ball
        self.generator = generator
        self.x = as_images(x).to(torch.promote_types(x.dtype, torch.float32))
        self.shape = x.shape
        self.samples, self.channels, self.height, self.width = self.x.shape

    @abstractmethod
    def start(self) -> Tensor:
        """The first candidate of each sample."""

    @abstractmethod
    def propose(self, points: Tensor, share: float) -> Tensor:
        """Another candidate, from the best so far."""

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1 with equal probability."""
        draws = torch.randint(0, 2, shape, generator=self.generator, device=self.x.device)
        return (2 * draws - 1).to(self.x.dtype)

    def corners(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Row and column of the upper left corner of one patch per sample, ``[N, 1]`` each."""
        limits = (self.height - size[0] + 1, self.width - size[1] + 1)
        row, column = (
            torch.randint(0, limit, (self.samples, 1), generator=self.generator, device=self.x.device)
            for limit in limits
        )
        return row, column

    def place(self, patch: Tensor, corners: tuple[Tensor, Tensor]) -> Tensor:
        """``patch`` ``[h, w]`` at each sample's corner, zero around it: ``[N, 1, H, W]``."""
        rows = torch.arange(self.height, device=self.x.device) - corners[0]
        columns = torch.arange(self.width, device=self.x.device) - corners[1]
        inside_rows = (rows >= 0) & (rows < patch.shape[0])
        inside_columns = (columns >= 0) & (columns < patch.shape[1])
        rows, columns = rows.clamp(0, patch.shape[0] - 1), columns.clamp(0, patch.shape[1] - 1)
        inside = inside_rows[:, :, None] & inside_columns[:, None, :]
        return (patch[rows[:, :, None], columns[:, None, :]] * inside).unsqueeze(1)

    def project(self, images: Tensor) -> Tensor:
        """Into the ball, in the shape of the input."""
        return self.ball.project(images.reshape(self.shape))


class _LinfSearch(_Search):
    def start(self) -> Tensor:
        """Vertical stripes."""
        return self.project(self.x + self.ball.eps * self.signs(self.samples, self.channels, 1, self.width))

    def propose(self, points: Tensor, share: float) -> Tensor:
        """A patch of x +- eps."""
        size = patch_size(share, self.height, self.width)
        inside = self.place(torch.ones(size, device=self.x.device), self.corners(size)) > 0
        patch = self.x + self.ball.eps * self.signs(self.samples, self.channels, 1, 1)
        return self.project(patch.where(inside, as_images(points).to(self.x.dtype)))


class _L2Search(_Search):
    def start(self) -> Tensor:
        """A tiling of bumps, each of one sign per channel, scaled to eps."""
        size = patch_size(1 / 25, self.height, self.width)
        delta = torch.zeros_like(self.x)
        for row in range(0, self.height, size[0]):
            for column in range(0, self.width, size[1]):
                tile = delta[:, :, row : row + size[0], column : column + size[1]]
                tile += bump(*tile.shape[2:]).to(delta) * self.signs(self.samples, self.channels, 1, 1)
        return self.project(self.x + self.ball.eps * delta / norms(delta))

    def propose(self, points: Tensor, share: float) -> Tensor:
        """Move what two patches hold, and what is left of eps, into a bump in the first of them."""
        delta = as_images(points).to(self.x.dtype) - self.x
        size = odd_patch_size(share, self.height, self.width)
        ones, here, there = torch.ones(size, device=self.x.device), self.corners(size), self.corners(size)
        first, second = self.place(ones, here), self.place(ones, there)
        either = first.maximum(second)
        unused = (self.ball.eps**2 - norms(delta) ** 2).clamp_min(0)
        budget = (delta * either).square().sum(dim=(2, 3), keepdim=True) + unused / self.channels
        fresh = self.place(self._split_bump(size).to(delta), here) * self.signs(self.samples, self.channels, 1, 1)
        held = delta * first
        shape = fresh / norms(fresh, (2, 3)) + held / norms(held, (2, 3))
        return self.project(self.x + delta * (1 - either) + shape / norms(shape, (2, 3)) * budget.sqrt())

    def _split_bump(self, size: tuple[int, int]) -> Tensor:
        """A bump of which one half is negative, cut along either side."""
        lying = torch.randint(0, 2, (), generator=self.generator, device=self.x.device).item() == 1
        height, width = size if lying else size[::-1]
        halves = [bump(height, width // 2), -bump(height, width - width // 2)]
        split = torch.cat(halves, dim=1)
        return split if lying else split.T


_SEARCHES: dict[str, Callable[[Tensor, Ball, torch.Generator], _Search]] = {"Linf": _LinfSearch, "L2": _L2Search}


def as_images(x: Tensor) -> Tensor:
    """``x`` as ``[N, C, H, W]``: ``[N, F]`` becomes one row of one channel, and ``[N, C, L]`` one row of C channels."""
    if x.ndim == 2:
        return x[:, None, None, :]
    return x[:, :, None, :] if x.ndim == 3 else x.flatten(1, -3)


def bump(height: int, width: int) -> Tensor:
    r"""Concentric rectangles that rise towards the middle, ``[height, width]``, of norm 1 (empty: no norm).

    The ring at depth d, counted from the edge, has the value :math:`\sum_{k=0}^{d} 1 / (n + 1 - k)^2` with n the depth
    of the middle.

    Example:
        >>> bump(3, 3).argmax()
        tensor(4)
    """
    rows, columns = torch.arange(height), torch.arange(width)
    from_edge = torch.minimum(rows, height - 1 - rows)[:, None].minimum(torch.minimum(columns, width - 1 - columns))
    deepest = max((min(height, width) - 1) // 2, 0)
    rings = torch.tensor([1 / (deepest + 1 - k) ** 2 for k in range(deepest + 1)]).cumsum(0)
    heights: Tensor = rings[from_edge]
    length: Tensor = torch.linalg.vector_norm(heights).clamp_min(1e-12)
    return heights / length


def norms(delta: Tensor, dims: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """Euclidean norms over some dimensions, which stay with size 1; at least 1e-12, to divide by."""
    lengths: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    return lengths.clamp_min(1e-12)
