"""What an analysis found: the report of a network's layers under one perturber."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lsa_lightning.functional import select_mvl

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
