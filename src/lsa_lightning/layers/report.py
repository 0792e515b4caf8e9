"""What an analysis found: the report of a network's layers under one attack, and that of an epoch of training."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lsa_lightning.functional import select_mvl
from lsa_lightning.utils.files import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class SustainabilityReport:
    """How far one attack moves each layer of a network.

    Attributes:
        layers: L names of the modules that were read, in the order of execution.
        learnable: the learnable layer that each of them stands for.
        mean: mean of the measure over the samples for each layer, float64 ``[L]``.
        std: population standard deviation over the samples for each layer, float64 ``[L]``.
        mu: mean over samples and layers, eq. (12), float64 scalar.
        sigma: population standard deviation over samples and layers, eq. (12), float64 scalar.
        samples: M, the number of samples.
        attack: what perturbed the inputs.
        measure: name of the comparison measure.

    Source: arXiv 2202.02626, eq. (12) and Algorithm 1.
    """

    layers: list[str]
    learnable: list[str]
    mean: Tensor
    std: Tensor
    mu: Tensor
    sigma: Tensor
    samples: int
    attack: str = ""
    measure: str = "relative_error"

    @property
    def z_scores(self) -> Tensor:
        """``(mean - mu) / sigma`` of each layer, ``[L]``; 0 everywhere if sigma is 0."""
        return (self.mean - self.mu) / self.sigma.where(self.sigma > 0, torch.inf)

    @property
    def profile(self) -> dict[str, float]:
        """Mean by layer."""
        return dict(zip(self.layers, self.mean.tolist(), strict=True))

    def most_vulnerable(self, eta: float = 0.5, top_k: int | None = None) -> list[str]:
        """Algorithm 1: see :func:`~lsa_lightning.functional.select_mvl`."""
        return select_mvl(self.layers, self.mean, self.mu, self.sigma, eta, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SustainabilityReport:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if an entry is missing or unknown.
        """
        values = _with_todays_names(values)
        try:
            tensors = {key: torch.tensor(values[key], dtype=torch.float64) for key in ("mean", "std", "mu", "sigma")}
            return cls(**{**values, **tensors})
        except (KeyError, TypeError) as error:
            msg = f"expected the entries of a SustainabilityReport, got: {error!r}"
            raise ValueError(msg) from error

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer: layer, learnable, measure, mean, std, z_score."""
        import pandas as pd

        columns = {"layer": self.layers, "learnable": self.learnable, "measure": self.measure}
        return pd.DataFrame({**columns, "mean": self.mean, "std": self.std, "z_score": self.z_scores})

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> SustainabilityReport:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, TypeError, AttributeError) as error:
            msg = f"expected {path} to hold a report written by SustainabilityReport.save, got: {error!r}"
            raise ValueError(msg) from error

    def plot(self) -> Figure:
        """Mean and standard deviation of the measure per layer."""
        return plot_reports({attack_in_words(self.attack)[0] or "perturbed": self})

    def __str__(self) -> str:
        width = max(len("read at"), *map(len, self.layers))
        source = max(len("layer"), *map(len, self.learnable))
        lines = [
            f"Layer sustainability under {self.attack or 'an attack'}, {self.samples} samples, "
            f"{in_words(self.measure)}",
            f"{'#':>3}  {'layer':<{source}}  {'read at':<{width}}  {'mean':>8}  {'std':>8}  {'z':>6}",
        ]
        rows = zip(
            self.learnable, self.layers, self.mean.tolist(), self.std.tolist(), self.z_scores.tolist(), strict=True
        )
        lines += [
            f"{i:>3}  {learnable:<{source}}  {layer:<{width}}  {digits(mean, 4):>8}  {digits(std, 4):>8}  {z:>+6.2f}"
            for i, (learnable, layer, mean, std, z) in enumerate(rows)
        ]
        return "\n".join([*lines, f"mu {digits(float(self.mu), 4)}, sigma {digits(float(self.sigma), 4)}"])


@dataclass(frozen=True, eq=False)
class AnalysedEpoch:
    """What the analysis after an epoch of training found.

    Attributes:
        epoch: number of the epoch, from 0.
        report: the layers under the analysis' attack.
        mvl: the list that was used from then on.

    ``entry["mu"]`` and the like give the entries of :meth:`to_dict`.
    """

    epoch: int
    report: SustainabilityReport
    mvl: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for checkpoints and summaries: the report's entries with epoch and mvl."""
        return {"epoch": self.epoch, **self.report.to_dict(), "mvl": self.mvl}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnalysedEpoch:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if an entry is missing or unknown.
        """
        if missing := {"epoch", "mvl"} - values.keys():
            msg = f"expected an analysed epoch with epoch and mvl, found no {', '.join(sorted(missing))}"
            raise ValueError(msg)
        report = {key: value for key, value in values.items() if key not in ("epoch", "mvl")}
        return cls(values["epoch"], SustainabilityReport.from_dict(report), list(values["mvl"]))

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]


def in_words(measure: str) -> str:
    """The name of a measure as figures and tables write it.

    Example:
        >>> in_words("relative_error")
        'relative error'
    """
    return measure.replace("_", " ")


def digits(value: float, places: int) -> str:
    """A value of a measure with so many decimal places; one that would lose most of them has two digits.

    Example:
        >>> digits(0.25, 3), digits(0.00123, 3), digits(0.0, 3)
        ('0.250', '1.2e-03', '0.000')
    """
    return f"{value:.1e}" if 0 < abs(value) < 10 ** (1 - places) else f"{value:.{places}f}"


def attack_in_words(attack: str) -> tuple[str, str]:
    """Name and radius of what a report names as its attack; empty where it does not tell.

    Of an attack in another input space it is the attack.

    Example:
        >>> attack_in_words("FGSM(norm='Linf', bounds=(0.0, 1.0), eps=0.1, alpha=0.1)")
        ('FGSM', 'eps 0.1 (Linf)')
    """
    attack = re.sub(r"^InputSpace\([^)]*\)\(", "", attack)
    eps, norm = re.search(r"\beps=([^,)]+)", attack), re.search(r"\bnorm='([^']+)'", attack)
    radius = "" if eps is None else f"eps {eps[1]}" + ("" if norm is None else f" ({norm[1]})")
    return attack.partition("(")[0], radius


def plot_reports(
    reports: Mapping[str, SustainabilityReport],
    mvl: Sequence[str] = (),
    threshold: tuple[str, float] | None = None,
) -> Figure:
    """Mean of the measure per layer under each attack, one line each; the layers of ``mvl`` are shaded.

    Args:
        reports: report by the name in the legend, at least one; all of the same layers and measure.
        mvl: names of the most vulnerable layers.
        threshold: name and height of the line that they lie above; None: no line.

    Returns:
        The figure; bars show one standard deviation over the samples.

    Raises:
        ValueError: if there is no report, or their layers or measures differ.
    """
    from lsa_lightning.plotting import plot_profiles

    kinds = {(tuple(report.layers), report.measure) for report in reports.values()}
    if len(kinds) != 1:
        msg = f"expected reports of the same layers and measure, at least one, got {sorted(kinds)}"
        raise ValueError(msg)
    ((layers, measure),) = kinds
    labels = {name: _with_amount(name, report.attack) for name, report in reports.items()}
    means = {labels[name]: report.mean.tolist() for name, report in reports.items()}
    stds = {labels[name]: report.std.tolist() for name, report in reports.items()}
    samples = {report.samples for report in reports.values()}
    radii = {attack_in_words(report.attack)[1] for report in reports.values()}
    attacked = radii.pop() if len(radii) == 1 else ""
    return plot_profiles(
        layers,
        means,
        stds=stds,
        mvl=mvl,
        threshold=threshold,
        measure=in_words(measure),
        attacked=attacked,
        samples=samples.pop() if len(samples) == 1 else None,
    )


def _with_amount(name: str, attack: str) -> str:
    """The name, and of a noise that changes a share of the inputs this share."""
    amount = re.search(r"\bamount=([^,)]+)", attack)
    return name if amount is None else f"{name}, amount {amount[1]}"


def plot_history(history: Sequence[AnalysedEpoch]) -> Figure:
    """The layers over the analysed epochs, at least one, as a heat map."""
    from lsa_lightning.plotting import plot_mvl_history

    return plot_mvl_history(
        [entry.epoch for entry in history],
        [dict(zip(entry.report.layers, entry.report.z_scores.tolist(), strict=True)) for entry in history],
        [entry.mvl for entry in history],
        measure=in_words(history[-1].report.measure) if history else "",
        attack=", ".join(filter(None, attack_in_words(history[-1].report.attack))) if history else "",
    )


def _with_todays_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries under today's names: files of before 0.1.0 say ``perturber``, and hold the repr of the measure."""
    values = dict(values)
    if "perturber" in values:
        values["attack"] = values.pop("perturber")
    written = {"RelativeError()": "relative_error", "CenteredRelativeError()": "centered_relative_error"}
    written["CosineDistance()"] = "cosine_distance"
    if "measure" in values:
        values["measure"] = written.get(values["measure"], values["measure"])
    return values
