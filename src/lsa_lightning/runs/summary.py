"""``summary.json``: what was trained, and what was found. The one place that knows how the file is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.layers.report import AnalysedEpoch
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.folder import read_json, write_json
from lsa_lightning.runs.stages import Analysis

SUMMARY_FILE = "summary.json"
VERSION = 2
"""Of the layout. Version 1, of before 0.1.0, had no number, ``relative_error`` for ``profiles`` and no ``measure``."""

_REQUIRED = ("name", "seed", "trained", "epochs", "training_seconds")


@dataclass(frozen=True, eq=False)
class AnalysisSummary:
    """What is kept of an :class:`~lsa_lightning.runs.stages.Analysis`.

    Attributes:
        measure: name of the comparison measure.
        mvl_from: the attack that the MVL was chosen under.
        mvl: the Most Vulnerable Layers.
        mu: mean of the measure over samples and layers under that attack, eq. (12).
        sigma: its population standard deviation.
        profiles: mean of the measure by attack and layer.
        threshold: ``mu + eta sigma``, which the MVL lies above; None for the k most vulnerable layers, and in files of
            before 0.2.
    """

    measure: str
    mvl_from: str
    mvl: list[str]
    mu: float
    sigma: float
    profiles: dict[str, dict[str, float]]
    threshold: float | None = None

    @classmethod
    def of(cls, analysis: Analysis) -> AnalysisSummary:
        """The summary of an analysis."""
        report = analysis.report
        profiles = {name: each.profile for name, each in analysis.reports.items()}
        mu, sigma = float(report.mu), float(report.sigma)
        return cls(report.measure, analysis.mvl_from, analysis.mvl, mu, sigma, profiles, analysis.threshold)


@dataclass(frozen=True, eq=False)
class RunSummary:
    """A finished run of ``lsa-train``. Stages that were left out are None, or empty.

    Attributes:
        name: the name that the configuration gives it.
        seed: the seed of training.
        trained: model, data and method in words.
        epochs: number of epochs that were trained, of which ``max_steps`` may have ended the last one early.
        training_seconds: wall time of training.
        checkpoint: file of the weights that were measured; None: the last ones, which no file holds.
        checkpoint_epoch: the epoch that they are from.
        checkpoint_step: the optimizer step that they are from, of a validation run within an epoch; None: its last.
        validation: the trainer's ``val/...`` metrics of the last validation run; of the monitored one, the best.
        analysis: the layers on the test split.
        evaluation: the accuracies on the test split.
        masking: masking flags by name.
        history: what the analyses during training found.
        versions: versions of what shapes a result.
    """

    name: str
    seed: int
    trained: dict[str, str]
    epochs: int
    training_seconds: float
    checkpoint: str | None = None
    checkpoint_epoch: int | None = None
    checkpoint_step: int | None = None
    validation: dict[str, float] = field(default_factory=dict)
    analysis: AnalysisSummary | None = None
    evaluation: RobustnessTable | None = None
    masking: dict[str, MaskingFlag] = field(default_factory=dict)
    history: list[AnalysedEpoch] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure that runs can be compared or optimised by, by name.

        ``accuracy/clean``, ``accuracy/<attack>/<eps>`` and ``rg_score/<attack>`` in percent, ``mu``, ``sigma``, and the
        ``val/...`` of training as they were logged.
        """
        values = dict(self.validation)
        if self.analysis is not None:
            values |= {"mu": self.analysis.mu, "sigma": self.analysis.sigma}
        if self.evaluation is not None:
            values |= {f"rg_score/{attack}": score for attack, score in self.evaluation.rg_score.items()}
            for attack, row in self.evaluation.accuracy.items():
                for eps, accuracy in zip(self.evaluation.eps, row, strict=True):
                    values["accuracy/clean" if eps == 0 else f"accuracy/{attack}/{eps:g}"] = accuracy
        return values

    @property
    def scores_in_words(self) -> str:
        """R&G under each attack, and the masking flags that were raised; empty without an evaluation."""
        if self.evaluation is None:
            return ""
        most = self.evaluation.rg_max
        words = ", ".join(f"{score:.2f} of {most:g} under {name}" for name, score in self.evaluation.rg_score.items())
        raised = [name for name, flag in self.masking.items() if flag.raised]
        return f"{words}; masking flags: {', '.join(raised)}" if raised else words

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as in the file; the entries of stages that were left out are not there."""
        values = {"version": VERSION, **{key: getattr(self, key) for key in _REQUIRED}}
        values |= {"checkpoint": self.checkpoint, "checkpoint_epoch": self.checkpoint_epoch}
        values |= {} if self.checkpoint_step is None else {"checkpoint_step": self.checkpoint_step}
        values["validation"] = self.validation
        if self.evaluation is not None:
            table = self.evaluation.to_dict()
            values |= {"test_samples": table.pop("samples"), **table}
            values["masking"] = {name: flag.to_dict() for name, flag in self.masking.items()}
        if self.analysis is not None:
            values |= vars(self.analysis)
        values["mvl_history"] = [entry.to_dict() for entry in self.history]
        return {**values, "versions": self.versions}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSummary:
        """The inverse of :meth:`to_dict`; reads older versions too.

        Raises:
            ValueError: if entries are missing, or the version is newer than this one.
        """
        values = _upgraded(values)
        if missing := [key for key in _REQUIRED if key not in values]:
            msg = f"found no {', '.join(missing)} in it"
            raise ValueError(msg)
        measured = "accuracy" in values
        analysed = {key: values[key] for key in AnalysisSummary.__dataclass_fields__ if key in values}
        return cls(
            **{key: values[key] for key in _REQUIRED},
            checkpoint=values.get("checkpoint"),
            checkpoint_epoch=values.get("checkpoint_epoch"),
            checkpoint_step=values.get("checkpoint_step"),
            validation=values.get("validation", {}),
            analysis=AnalysisSummary(**analysed) if "profiles" in values else None,
            evaluation=RobustnessTable.from_dict({**values, "samples": values["test_samples"]}) if measured else None,
            masking={name: MaskingFlag(**flag) for name, flag in values.get("masking", {}).items()},
            history=[AnalysedEpoch.from_dict(entry) for entry in values.get("mvl_history", [])],
            versions=values.get("versions", {}),
        )

    def save(self, folder: Path) -> None:
        """Write ``summary.json`` into ``folder``."""
        write_json(self.to_dict(), folder / SUMMARY_FILE)

    @classmethod
    def load(cls, folder: Path) -> RunSummary:
        """Read the ``summary.json`` of ``folder``.

        Raises:
            ValueError: if it cannot be read, or does not hold what :meth:`save` writes.
        """
        values = read_json(folder / SUMMARY_FILE)
        try:
            return cls.from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"expected {folder / SUMMARY_FILE} to be written by lsa-train, got: {error}"
            raise ValueError(msg) from error


def _upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in the layout of :data:`VERSION`."""
    values = dict(values)
    version = values.get("version", 1)
    if version > VERSION:
        msg = f"it has version {version}, and this release of lsa-lightning reads up to version {VERSION}"
        raise ValueError(msg)
    if version == 1 and "relative_error" in values:
        profiles = values.pop("relative_error")
        values |= {"measure": "relative_error", "profiles": profiles, "mvl_from": next(iter(profiles))}
    if version == 1:
        values["mvl_history"] = [_upgraded_epoch(entry) for entry in values.get("mvl_history", [])]
    return values


def _upgraded_epoch(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of version 1, which kept no more than was drawn."""
    unknown = [float("nan")] * len(entry["layers"])
    return {"learnable": entry["layers"], "std": unknown, "samples": 0, **entry}
