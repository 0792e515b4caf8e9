"""The largest robust accuracy that any classifier can have on a sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lsa_lightning.attacks import InputSpace
from lsa_lightning.utils.batch import BatchFn, check_samples, read_batch, read_samples
from lsa_lightning.utils.checks import choice, function, instance, integer, number, or_none, refuse, sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POWERS = {"Linf": math.inf, "L2": 2.0}
_DISTANCES = 2**22
"""Distances that are held at a time."""


@dataclass(frozen=True)
class Ceiling:
    """What no classifier exceeds on a sample.

    Attributes:
        eps: the columns.
        accuracy: the largest accuracy in percent at each eps alone, in [0, 100].
        rg_eps: the columns that R&G is summed over.
        rg_score: the largest R&G, at most the sum of ``accuracy``: no classifier need be the best at every eps.
        part: number of samples that were looked at together.
    """

    eps: list[float]
    accuracy: list[float]
    rg_eps: list[float]
    rg_score: float
    part: int

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ceiling:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


class CeilingBound:
    r"""Bounds the accuracy of every classifier on a sample, whatever it was trained on.

    Two balls of radius :math:`\epsilon_a` and :math:`\epsilon_b` around samples of different class that share a point
    cannot both be right: what a classifier says at that point is wrong for one of them. So take a node for each sample
    and eps, and an edge between two nodes of different class whose balls meet, which is where

    .. math:: \|x_i - x_j\| \le \epsilon_a + \epsilon_b .

    What a classifier gets right is a set of nodes without an edge in it. Let :math:`n` be the number of nodes and
    :math:`\nu` the size of a maximum matching.

    - Two classes: the graph is bipartite, and the largest such set has exactly :math:`n - \nu` nodes (Koenig).
    - More classes: it has at most :math:`n - \nu_2 / 2` nodes, where :math:`\nu_2` is the size of a maximum matching of
      the double cover (each node once on either side, each edge twice). Proof: each of the :math:`\nu_2` edges has an
      end outside of the set, and a node is the end of at most two of them, one on either side, so at least
      :math:`\nu_2 / 2` nodes are outside. This is the optimum of the linear program with :math:`z_i + z_j \le 1` for
      each edge. Where each ball of a column meets each one of another class, the largest class is counted instead,
      which is exact.

    A sample is looked at in parts, whose bounds add up: a set without an edge has none in any part. Larger parts have
    more edges and give a lower, tighter bound; one part costs memory for the edges, at most ``part`` ^ 2 / 2 times the
    number of columns squared. A bound for a sample is not one for the distribution, whose own is lower still: with more
    samples it falls.

    Args:
        part: number of samples >= 1 that are looked at together.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        batch_fn: ``batch -> (x, y)``.
        input_space: the space of x, if batches are normalised; distances and eps are in pixels.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [1.2], [5.0]]), torch.tensor([0, 1, 1, 0])
        >>> ceiling = CeilingBound().of(x, y, eps=[0.0, 0.4, 0.5])  # at 0.5, the first two cannot both be right
        >>> ceiling.accuracy, ceiling.rg_score
        ([100.0, 100.0, 75.0], 275.0)

    Source: for one eps, Bhagoji et al. 2019, "Lower bounds on adversarial robustness from optimal transport",
    arXiv 1909.12272; D. Koenig 1931.
    """

    def __init__(
        self,
        part: int = 2000,
        *,
        norm: str = "Linf",
        batch_fn: BatchFn = read_batch,
        input_space: InputSpace | None = None,
    ) -> None:
        self.part = integer(self, "part", part, low=1)
        self.norm = choice(self, "norm", norm, _POWERS, also=", or evaluation.ceiling=null")
        self.batch_fn: BatchFn = function(self, "batch_fn", batch_fn)
        self.input_space = or_none(instance, self, "input_space", input_space, InputSpace)

    def run(
        self,
        dataloader: Iterable[Any],
        eps: Sequence[float],
        rg_eps: Sequence[float] | None = None,
        limit_batches: int | None = None,
    ) -> Ceiling:
        """The ceiling on the samples of a dataloader; see :meth:`of`.

        Raises:
            ValueError: if there is no batch.
        """
        batches = [read_samples(self.batch_fn, batch) for batch in islice(dataloader, limit_batches)]
        if not batches:
            msg = "expected a dataloader with at least one batch, got an empty one"
            raise ValueError(msg)
        x, y = (torch.cat([part.cpu() for part in parts]) for parts in zip(*batches, strict=True))
        return self.of(x, y, eps, rg_eps)

    def of(self, x: Tensor, y: Tensor, eps: Sequence[float], rg_eps: Sequence[float] | None = None) -> Ceiling:
        """The ceiling on a sample.

        Args:
            x: inputs ``[N, ...]``.
            y: classes ``[N]``.
            eps: radii >= 0, at least one.
            rg_eps: those of them that R&G is summed over; None: all.

        Raises:
            ValueError: if an argument is outside its range.
        """
        check_samples(x, y)
        columns = sequence(self, "eps", eps, number, low=0)
        summed = columns if rg_eps is None else sequence(self, "rg_eps", rg_eps, number, low=0)
        if not set(summed) <= set(columns):
            refuse(self, "rg_eps", f"among eps, {columns}", summed)
        points = x if self.input_space is None else self.input_space.to_pixels(x.double(), None)
        parts = (torch.split(each, self.part) for each in (points.flatten(1), y.flatten()))
        right, total = [0] * len(columns), 0
        for rows, labels in zip(*parts, strict=True):
            pairs = _pairs(rows, labels, 2 * max(columns), _POWERS[self.norm])
            most = {each: _most_right(pairs, [each]) for each in columns}
            right = [before + most[each] for before, each in zip(right, columns, strict=True)]
            total += min(_most_right(pairs, summed), sum(most[each] for each in summed))
        accuracy = [100 * hits / len(x) for hits in right]
        return Ceiling(columns, accuracy, summed, 100 * total / len(x), min(self.part, len(x)))

    def __repr__(self) -> str:
        space = "" if self.input_space is None else f", input_space={self.input_space!r}"
        return f"CeilingBound(part={self.part}, norm={self.norm!r}{space})"


class _Pairs(NamedTuple):
    """Pairs of samples of different class, and what else bounds need of them.

    ``first`` and ``second`` are indices of the samples ``[P]``, ``distances`` ``[P]`` theirs. Of two classes, the first
    of a pair is of the first class; of more, each pair is there both ways.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distances: NDArray[np.float64]
    classes: NDArray[np.int64]


def _pairs(x: Tensor, y: Tensor, reach: float, power: float) -> _Pairs:
    """The pairs that are not farther apart than ``reach``, found some rows at a time."""
    classes = torch.unique(y, return_counts=True)[1].numpy()
    chosen = (y == y.min()).nonzero().flatten() if len(classes) == 2 else torch.arange(len(y))
    found = []
    for rows in torch.split(chosen, max(_DISTANCES // len(x), 1)):
        mode = "donot_use_mm_for_euclid_dist"  # products of matrices round the distance of near points
        distances = torch.cdist(x[rows].double(), x.double(), p=power, compute_mode=mode)
        near, others = ((distances <= reach) & (y[rows].unsqueeze(1) != y)).nonzero(as_tuple=True)
        found.append((rows[near], others, distances[near, others]))
    first, second, lengths = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return _Pairs(first, second, lengths, classes)


def _most_right(pairs: _Pairs, eps: Sequence[float]) -> int:
    """At most so many (sample, eps) can be right together."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    columns, samples = len(eps), int(pairs.classes.sum())
    rows, others = [], []
    for a, own in enumerate(eps):
        for b, theirs in enumerate(eps):
            meet = pairs.distances <= own + theirs
            rows.append(pairs.first[meet] * columns + a)
            others.append(pairs.second[meet] * columns + b)
    first, second = (np.concatenate(ends).astype(np.int32) for ends in (rows, others))  # scipy 1.11 matches no others
    nodes = samples * columns
    if len(first) == 0:
        return nodes
    if len(pairs.classes) > 2 and len(first) == (samples**2 - int((pairs.classes**2).sum())) * columns**2:
        return int(pairs.classes.max()) * columns
    graph = csr_array((np.ones(len(first), dtype=bool), (first, second)), shape=(nodes, nodes))
    matched = int((maximum_bipartite_matching(graph) >= 0).sum())
    return nodes - (matched if len(pairs.classes) == 2 else -(-matched // 2))
