"""Layer Sustainability Analysis (LSA): which layers a perturbation moves most."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.batch import BatchFn, move_data_to_device, read_batch
from lsa_lightning.functional import select_mvl
from lsa_lightning.measures import ComparisonMeasure, RelativeError
from lsa_lightning.metrics import LayerProfile
from lsa_lightning.modes import evaluating
from lsa_lightning.representations import Layer, LayerProbe, LayerSpec, resolve_layers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Perturb = Attack | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``(model, x, y) -> x_adv``."""


@dataclass(frozen=True, eq=False)
class SustainabilityReport:
    """The relative error of each layer of a network under one perturber.

    Attributes:
        layers: L names of the modules that were read, in the order of execution.
        learnable: the learnable layer that each of them stands for.
        mean: mean over the samples for each layer, float64 ``[L]``.
        std: population standard deviation over the samples for each layer, float64 ``[L]``.
        mu: mean over samples and layers, eq. (12), float64 scalar.
        sigma: population standard deviation over samples and layers, eq. (12), float64 scalar.
        samples: M, the number of samples.
        perturber: what perturbed the inputs.
        measure: the comparison measure.

    Source: arXiv 2202.02626, eq. (12) and Algorithm 1.
    """

    layers: list[str]
    learnable: list[str]
    mean: Tensor
    std: Tensor
    mu: Tensor
    sigma: Tensor
    samples: int
    perturber: str = ""
    measure: str = "RelativeError()"

    @property
    def z_scores(self) -> Tensor:
        """``(mean - mu) / sigma`` of each layer, ``[L]``; 0 everywhere if sigma is 0."""
        return (self.mean - self.mu) / self.sigma.where(self.sigma > 0, torch.inf)

    def most_vulnerable(self, eta: float = 0.5, top_k: int | None = None) -> list[str]:
        """Algorithm 1: see :func:`~lsa_lightning.functional.select_mvl`."""
        return select_mvl(self.layers, self.mean, self.mu, self.sigma, eta, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SustainabilityReport:
        """The inverse of :meth:`to_dict`."""
        tensors = {key: torch.tensor(values[key], dtype=torch.float64) for key in ("mean", "std", "mu", "sigma")}
        return cls(**{**values, **tensors})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer: layer, learnable, mean, std, z_score."""
        import pandas as pd

        columns = {"layer": self.layers, "learnable": self.learnable, "mean": self.mean, "std": self.std}
        return pd.DataFrame({**columns, "z_score": self.z_scores})

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> SustainabilityReport:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            msg = f"expected {path} to hold a report written by SustainabilityReport.save, got: {error!r}"
            raise ValueError(msg) from error

    def plot(self) -> Figure:
        """Mean and standard deviation of the relative error per layer."""
        from lsa_lightning.plotting import plot_profiles

        return plot_profiles({self.perturber.partition("(")[0] or "perturbed": self})

    def __str__(self) -> str:
        width = max(len("read at"), *map(len, self.layers))
        source = max(len("layer"), *map(len, self.learnable))
        lines = [
            f"Layer sustainability under {self.perturber or 'a perturber'}, {self.samples} samples, {self.measure}",
            f"{'#':>3}  {'layer':<{source}}  {'read at':<{width}}  {'mean':>8}  {'std':>8}  {'z':>6}",
        ]
        rows = zip(
            self.learnable, self.layers, self.mean.tolist(), self.std.tolist(), self.z_scores.tolist(), strict=True
        )
        lines += [
            f"{i:>3}  {learnable:<{source}}  {layer:<{width}}  {mean:>8.4f}  {std:>8.4f}  {z:>+6.2f}"
            for i, (learnable, layer, mean, std, z) in enumerate(rows)
        ]
        return "\n".join([*lines, f"mu {float(self.mu):.4f}, sigma {float(self.sigma):.4f}"])


class LayerSustainabilityAnalysis:
    """LSA of a network: streams over batches, keeps only sums, leaves the network as it was.

    Args:
        model: maps x to logits; runs in eval mode.
        layers: which layers, see :func:`~lsa_lightning.representations.resolve_layers`.
        measure: the comparison measure; default :class:`~lsa_lightning.measures.RelativeError`.
        batch_fn: ``batch -> (x, y)``; default :func:`~lsa_lightning.batch.read_batch`.

    Example:
        >>> from lsa_lightning.attacks import FGSM
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1))
        >>> batches = [(torch.rand(16, 2), torch.randint(2, (16,)))]
        >>> report = LayerSustainabilityAnalysis(net).run(batches, FGSM(eps=0.1))
        >>> report.layers, report.samples
        (['1', '3'], 16)

    Source: arXiv 2202.02626, Algorithm 2.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerSpec = None,
        measure: ComparisonMeasure | None = None,
        batch_fn: BatchFn | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            msg = f"expected model to be an nn.Module, got {model!r}"
            raise ValueError(msg)
        self.model = model
        self.layers = layers
        self.measure = measure if measure is not None else RelativeError()
        self.batch_fn = batch_fn if batch_fn is not None else read_batch

    def run(self, dataloader: Iterable[Any], attack: Perturb, max_batches: int | None = None) -> SustainabilityReport:
        """Perturb each batch and compare each layer's two representations, sample by sample.

        In a distributed run each process passes its own batches, and all get the report over all of them.

        Args:
            dataloader: any iterable of batches; they are moved to the model's device.
            attack: ``(model, x, y) -> x_adv``.
            max_batches: number of batches >= 1, or None for all.

        Returns:
            The report.

        Raises:
            ValueError: for an empty dataloader, batches that cannot be read or hold NaN, unknown or silent layers, and
                layers whose first dimension is not the samples.
        """
        if not callable(attack) or (max_batches is not None and max_batches < 1):
            msg = f"expected attack to be callable and max_batches >= 1 or None, got {attack!r} and {max_batches}"
            raise ValueError(msg)
        layers: list[Layer] = []
        profile: LayerProfile | None = None
        for batch in islice(dataloader, max_batches):
            x, y = self.batch_fn(move_data_to_device(batch, _device_of(self.model)))
            x_adv = attack(self.model, x, y)
            if profile is None:
                layers = resolve_layers(self.model, self.layers, x)
                profile = LayerProfile([layer.name for layer in layers]).to(x.device)
            profile.update(self._errors([layer.name for layer in layers], x, x_adv))
        if profile is None:
            msg = "expected a dataloader with at least one batch, got an empty one"
            raise ValueError(msg)
        return SustainabilityReport(
            [layer.name for layer in layers],
            [layer.learnable for layer in layers],
            **{key: _to_cpu(value) for key, value in profile.compute()._asdict().items()},
            perturber=_describe(attack),
            measure=repr(self.measure),
        )

    def _errors(self, layers: list[str], x: Tensor, x_adv: Tensor) -> Tensor:
        """Relative errors of a batch, ``[N, L]``."""
        with evaluating(self.model), torch.no_grad():
            clean, perturbed = self._representations(layers, x), self._representations(layers, x_adv)
        return torch.stack([self.measure(clean[name], perturbed[name]) for name in layers], dim=1)

    def _representations(self, layers: list[str], x: Tensor) -> dict[str, Tensor]:
        with LayerProbe(self.model, layers, samples=len(x), stop_early=True) as probe:
            self.model(x)
        return probe.representations


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _describe(attack: Any) -> str:
    if hasattr(attack, "func"):  # a partial that binds an attack to an input space
        return ", ".join(repr(arg) for arg in attack.args if isinstance(arg, Attack))
    return repr(attack)
