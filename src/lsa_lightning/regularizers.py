"""The layer-wise regularizer of AT-LR and its schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from lsa_lightning.functional import layerwise_penalty
from lsa_lightning.measures import ComparisonMeasure, RelativeError
from lsa_lightning.utils.checks import flag, function, instance, integer, mapping, number, or_none
from lsa_lightning.utils.renamed import renamed


class LinearRamp:
    r"""Gamma schedule that rises linearly over the first ``warmup_epochs`` n, and stays at 1.

    .. math:: \min(1,\ (epoch + 1) / n)

    Args:
        warmup_epochs: length of the ramp in epochs, >= 1.

    Raises:
        ValueError: if ``warmup_epochs`` < 1.

    Example:
        >>> [LinearRamp(4)(epoch) for epoch in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    @renamed(epochs="warmup_epochs")
    def __init__(self, warmup_epochs: int) -> None:
        self.warmup_epochs = integer(self, "warmup_epochs", warmup_epochs, low=1)

    def __call__(self, epoch: int) -> float:
        """Factor in (0, 1] for gamma in ``epoch`` (counted from the first regularized epoch, 0)."""
        return min(1.0, (epoch + 1) / self.warmup_epochs)


class TrainingSchedule(ABC):
    """A gamma schedule that goes by the share of training that is done. Subclasses write ``__call__``."""

    @abstractmethod
    def __call__(self, share: float) -> float:
        """Factor >= 0 for gamma when ``share``, in [0, 1], of all training steps is done."""


class TrainingRamp(TrainingSchedule):
    r"""Gamma schedule that is 0 at first, rises linearly between two shares of training, and stays at 1.

    .. math:: \min(1, \max(0, (share - start) / (end - start)))

    It changes with each step. The network has learned something before the regularizer begins to pull.

    Args:
        start: share of training in [0, 1) up to which gamma is 0.
        end: share of training in (start, 1] from which on gamma is full.

    Raises:
        ValueError: if they are outside their range.

    Example:
        >>> [round(TrainingRamp(0.1, 0.5)(share), 2) for share in (0.0, 0.1, 0.2, 0.5, 1.0)]
        [0.0, 0.0, 0.25, 1.0, 1.0]
    """

    def __init__(self, start: float = 0.1, end: float = 0.5) -> None:
        self.start = number(self, "start", start, low=0, below=1)
        self.end = number(self, "end", end, above=self.start, high=1)

    def __call__(self, share: float) -> float:
        """Factor in [0, 1] for gamma."""
        return min(1.0, max(0.0, (share - self.start) / (self.end - self.start)))


class LayerwiseRegularizer:
    r""":math:`LR(\theta, x, \hat x, y) = \sum_{l \in MVL} \gamma_l\, CM(\phi_l(x), \phi_l(\hat x))`.

    Args:
        gamma: weight >= 0, for all layers or by layer name. A mapping regularizes only the layers that it names.
        measure: the comparison measure CM; default :class:`~lsa_lightning.measures.RelativeError`.
        schedule: ``epoch -> factor`` for gamma, such as :class:`LinearRamp`, epochs counted from the first regularized
            one; or a :class:`TrainingSchedule` of the share of training, such as :class:`TrainingRamp`; None: 1.
        per_sample: True (default): CM of each sample, averaged over the batch, which is what the analysis reports
            (eq. 12). False: one CM over the tensor of the whole batch, in which samples of large norm weigh more.

    Raises:
        ValueError: if a gamma is negative or not finite, or the mapping is empty.

    Example:
        >>> import torch
        >>> regularizer = LayerwiseRegularizer(gamma=0.5)
        >>> regularizer({"fc1": torch.tensor([[3.0, 4.0]])}, {"fc1": torch.tensor([[3.0, 3.0]])})
        tensor(0.1000)

    Source: arXiv 2202.02626, Algorithm 3.
    """

    def __init__(
        self,
        gamma: float | Mapping[str, float] = 0.1,
        *,
        measure: ComparisonMeasure | None = None,
        schedule: Callable[[int], float] | TrainingSchedule | None = None,
        per_sample: bool = True,
    ) -> None:
        self.gamma = (
            mapping(self, "gamma", gamma, number, low=0)
            if isinstance(gamma, Mapping)
            else number(self, "gamma", gamma, low=0, also=", or a mapping of layer names to such numbers")
        )
        self.measure = or_none(instance, self, "measure", measure, ComparisonMeasure) or RelativeError()
        self.schedule: Callable[[int], float] | TrainingSchedule | None = or_none(function, self, "schedule", schedule)
        self.per_sample = flag(self, "per_sample", per_sample)

    def weights(self, layers: Iterable[str], epoch: int = 0, share: float = 1.0) -> dict[str, float]:
        """Gamma of each of ``layers`` now; layers that a gamma mapping does not name are left out.

        Args:
            layers: names of layers.
            epoch: the epoch, from the first regularized one on.
            share: share of training that is done, in [0, 1].
        """
        factor = self._factor(epoch, share)
        return {name: factor * gamma for name, gamma in self.unscheduled(layers).items()}

    def unscheduled(self, layers: Iterable[str]) -> dict[str, float]:
        """Gamma of each of ``layers`` where the schedule is at 1; those that a mapping does not name are left out."""
        if isinstance(self.gamma, float):
            return dict.fromkeys(layers, self.gamma)
        # A name without #k stands for all calls of its module.
        by_name = {name: self.gamma.get(name, self.gamma.get(name.partition("#")[0])) for name in layers}
        return {name: gamma for name, gamma in by_name.items() if gamma is not None}

    def _factor(self, epoch: int, share: float) -> float:
        if self.schedule is None:
            return 1.0
        return self.schedule(share) if isinstance(self.schedule, TrainingSchedule) else self.schedule(epoch)

    def __call__(
        self, clean: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], epoch: int = 0, share: float = 1.0
    ) -> Tensor:
        """The penalty over the layers of ``clean``, a scalar; gradients flow into both sides.

        Raises:
            ValueError: if no layer of ``clean`` has a gamma.
        """
        compare = self.measure if self.per_sample else self.measure.over_batch
        return layerwise_penalty(clean, perturbed, self.weights(clean, epoch, share), compare)

    def __repr__(self) -> str:
        return f"LayerwiseRegularizer(gamma={self.gamma}, measure={self.measure!r}, per_sample={self.per_sample})"
