"""Robust accuracy of classifiers of points in the plane without an attack, read off their decision boundary."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import InputSpace
from lsa_lightning.attacks.balls import BALLS, Bounds
from lsa_lightning.functional import check_classes, predicted_labels
from lsa_lightning.utils.checks import choice, instance, integer, number, or_none
from lsa_lightning.utils.isolation import evaluating, scratch_buffers
from lsa_lightning.utils.outputs import LogitsOf, OutputFn

_POWERS = {"Linf": math.inf, "L2": 2.0}
_CORNERS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
_AROUND = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
_ROWS = 16_384
"""Nodes that one pass takes."""
_MOST_NODES = 25_000_000

Labels = Callable[[Tensor], Tensor]
"""``[M, 2]`` points -> ``[M]`` predicted classes."""


class PlaneGrid:
    r"""Finds how far the nearest point of another class is from points in the plane, between two bounds.

    The classes at the nodes of a grid of cells of width ``step`` show where the decision boundary runs: through the
    cells whose corners are not all of one class. These and their neighbours are halved ``halvings`` times, which leaves
    *boundary cells* of width :math:`w = \text{step} / 2^\text{halvings}`. The robust radius of a point, which is the
    distance to the nearest point that the model gives another class than the point's label, lies

    - at most at the distance to the nearest node of another class: the model was asked there, so nothing is assumed;
    - at least at the distance to the nearest boundary cell. This holds if every region of another class within reach
      has a node in it or runs through a boundary cell: what lies inside of a single cell whose corners all are of
      one class is not seen. Where a point itself shows such a region, its radius is at least 0.

    The two differ by about w. Neither depends on gradients, nor on where the points lie on the grid.

    Args:
        step: width of a cell > 0, in units of x (of pixels, with an ``input_space``).
        halvings: how often cells along the boundary are halved, >= 0.
        norm: name of the norm that distances are measured in, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, beyond which nothing counts; None: no limit.
        input_space: the space of x, if batches are normalised; distances and bounds are in pixels.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.0]]))  # class 1 where the first coordinate is > 0
        >>> x, y = torch.tensor([[0.31, 0.5], [-0.12, 0.0], [0.2, 0.1]]), torch.tensor([1, 0, 0])
        >>> low, high = PlaneGrid(step=0.1, halvings=6, bounds=None).radii(net, x, y, reach=0.5)
        >>> [round(float(radius), 2) for radius in low], bool((high - low < 0.004).all())
        ([0.31, 0.12, 0.0], True)
    """

    def __init__(
        self,
        step: float = 0.02,
        halvings: int = 4,
        *,
        norm: str = "Linf",
        bounds: Bounds = None,
        input_space: InputSpace | None = None,
    ) -> None:
        self.step = number(self, "step", step, above=0)
        self.halvings = integer(self, "halvings", halvings, low=0)
        self.norm = choice(self, "norm", norm, _POWERS, also=", or evaluation.exact=null")
        self.bounds = bounds
        self.input_space = or_none(instance, self, "input_space", input_space, InputSpace)

    @property
    def width(self) -> float:
        """Width of the boundary cells."""
        return float(self.step / 2**self.halvings)

    def radii(
        self, model: nn.Module, x: Tensor, y: Tensor, reach: float, output_fn: OutputFn | None = None
    ) -> tuple[Tensor, Tensor]:
        """Bounds of the robust radius of each point.

        Args:
            model: maps x to logits; runs in eval mode and is left as it was.
            x: points ``[N, 2]``.
            y: labels ``[N]``.
            reach: the largest radius of interest >= 0; what lies farther away is not looked for.
            output_fn: see :class:`~lsa_lightning.utils.outputs.LogitsOf`.

        Returns:
            The lower and the upper bounds, float64 ``[N]`` on the CPU: 0 where the point itself is of another class,
            infinity where nothing was found within reach.

        Raises:
            ValueError: if the points are not in a plane, or the grid would have more than 25 million nodes.
        """
        if x.ndim != 2 or x.shape[1] != 2:
            msg = f"expected points in the plane, [N, 2], got inputs {tuple(x.shape)}; set evaluation.exact=null"
            raise ValueError(msg)
        logits_of: nn.Module = LogitsOf(model, output_fn)
        points = x if self.input_space is None else self.input_space.to_pixels(x, self.bounds)
        function = logits_of if self.input_space is None else self.input_space.model_of_pixels(logits_of, x)
        with evaluating(logits_of), scratch_buffers(model), torch.no_grad():
            boundary = _Boundary(self, _labels_of(function, points))
            boundary.trace(points.cpu().double(), reach)
            return boundary.distances(points.cpu(), y.flatten().cpu(), reach)

    def __repr__(self) -> str:
        settings = f"step={self.step:g}, halvings={self.halvings}, norm={self.norm!r}, bounds={self.bounds}"
        return f"PlaneGrid({settings}{'' if self.input_space is None else f', input_space={self.input_space!r}'})"


class _Boundary:
    """The cells that a model's decision boundary runs through.

    Args:
        grid: the settings.
        labels: the model's classes at points.
    """

    def __init__(self, grid: PlaneGrid, labels: Labels) -> None:
        self.grid = grid
        self.labels = labels
        self.cells = torch.zeros(0, 2, dtype=torch.int64)
        self.corners = torch.zeros(0, 4, dtype=torch.int64)

    def trace(self, points: Tensor, reach: float) -> None:
        """Find the cells within reach of the points."""
        width = self.grid.step
        self._keep_mixed(self._all_cells(points, reach), width)
        for _ in range(self.grid.halvings):
            width /= 2
            around = _distinct((self.cells.unsqueeze(1) + _AROUND).flatten(0, 1))
            self._keep_mixed((2 * around.unsqueeze(1) + _CORNERS).flatten(0, 1), width)

    def distances(self, points: Tensor, y: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        """The bounds, see :meth:`PlaneGrid.radii`."""
        width = self.grid.width
        half = width / 2 * BALLS[self.grid.norm].norm_of_ones(2)
        low = (self._nearest((self.cells + 0.5) * width, points, reach + half) - half).clamp_min(0)
        classes, nodes = self._of_cells_with(points)
        others = classes != y.unsqueeze(1)
        high = self._length(nodes - points.double().unsqueeze(1)).where(others, torch.inf).amin(1)
        low[others.all(1)] = 0
        nodes, classes = self._nodes_of(self.cells, width).flatten(0, 1), self.corners.flatten()
        for label in torch.unique(y):
            own = y == label
            high[own] = torch.minimum(high[own], self._nearest(nodes[classes != label], points[own], reach))
        wrong = self.labels(points) != y
        return low.where(~wrong, 0.0), high.where(~wrong, 0.0)

    def _all_cells(self, points: Tensor, reach: float) -> Tensor:
        """Every cell within reach, and within the bounds."""
        first, last = points.amin(0) - reach, points.amax(0) + reach
        if self.grid.bounds is not None:
            first, last = first.clamp_min(self.grid.bounds[0]), last.clamp_max(self.grid.bounds[1])
        low, high = (first / self.grid.step).floor().long(), (last / self.grid.step).ceil().long()
        if (nodes := float((high - low + 1).double().prod())) > _MOST_NODES:
            msg = (
                f"expected a grid of at most {_MOST_NODES:,} nodes as far as radius {reach:g} reaches, got "
                f"step={self.grid.step:g}, which makes {nodes:,.0f}: a larger evaluation.exact.step, or "
                "evaluation.exact=null"
            )
            raise ValueError(msg)
        return torch.cartesian_prod(*(torch.arange(int(a), int(b)) for a, b in zip(low, high, strict=True)))

    def _of_cells_with(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Classes ``[N, 4]`` and places ``[N, 4, 2]`` of the corners of the cells that the points lie in."""
        cells = (points.double() / self.grid.step).floor().long()
        return self._classes(cells, self.grid.step), self._nodes_of(cells, self.grid.step)

    def _keep_mixed(self, cells: Tensor, width: float) -> None:
        """Keep, of these cells, those whose corners are not all of one class."""
        classes = self._classes(cells, width)
        mixed = (classes != classes[:, :1]).any(1)
        self.cells, self.corners = cells[mixed], classes[mixed]

    def _classes(self, cells: Tensor, width: float) -> Tensor:
        """The classes at the corners, ``[M, 4]``; the model is asked once where cells share a corner."""
        corners = (cells.unsqueeze(1) + _CORNERS).flatten(0, 1)
        nodes, places = _distinct_and_places(corners)
        return self.labels(self._places(nodes, width))[places].view(-1, 4)

    def _nodes_of(self, cells: Tensor, width: float) -> Tensor:
        """The places of the corners, ``[M, 4, 2]``."""
        return self._places(cells.unsqueeze(1) + _CORNERS, width)

    def _places(self, nodes: Tensor, width: float) -> Tensor:
        """Where nodes of a grid lie; those beyond the bounds are moved onto them."""
        places = nodes.double() * width
        return places if self.grid.bounds is None else places.clamp(*self.grid.bounds)

    def _length(self, difference: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(difference, ord=_POWERS[self.grid.norm], dim=-1)
        return length

    def _nearest(self, places: Tensor, points: Tensor, reach: float) -> Tensor:
        """The distance from each point to the nearest of some places; infinity where that is beyond reach."""
        from scipy.spatial import cKDTree

        if len(places) == 0 or len(points) == 0:
            return torch.full((len(points),), torch.inf, dtype=torch.float64)
        beyond = math.nextafter(reach, math.inf)
        tree = cKDTree(places.double().numpy())
        found, _ = tree.query(points.double().numpy(), p=_POWERS[self.grid.norm], distance_upper_bound=beyond)
        return torch.from_numpy(found)


def _labels_of(model: nn.Module, like: Tensor) -> Labels:
    """The classes that ``model`` gives points of any dtype, asked on the device and in the dtype of ``like``."""

    def labels(points: Tensor) -> Tensor:
        found = []
        for rows in torch.split(points, _ROWS) if len(points) else ():
            logits = model(rows.to(like.dtype, copy=True).to(like.device))
            check_classes(logits, torch.zeros(len(rows), dtype=torch.int64))
            found.append(predicted_labels(logits).cpu())
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)

    return labels


def _distinct(nodes: Tensor) -> Tensor:
    return _distinct_and_places(nodes)[0]


def _distinct_and_places(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of ``[M, 2]`` integers, and where each row is among them."""
    if len(nodes) == 0:
        return nodes, torch.zeros(0, dtype=torch.int64)
    first = nodes.amin(0)
    shifted = nodes - first
    columns = shifted[:, 1].max() + 1
    keys, places = torch.unique(shifted[:, 0] * columns + shifted[:, 1], return_inverse=True)
    return torch.stack([keys // columns, keys % columns], dim=1) + first, places
