"""The stages of a job after training: analyse, evaluate and check. They measure; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lsa_lightning.attacks import Attack
from lsa_lightning.attacks.input_space import check_same_space
from lsa_lightning.evaluation import CeilingBound, PlaneGrid, RobustnessEvaluation, RobustnessTable
from lsa_lightning.evaluation.observed import POINTS, LayerErrors, Observed, observe
from lsa_lightning.evaluation.robustness import EXACT
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.probe import check_names_exist
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.layers.resolve import LayerSpec, checked_layers
from lsa_lightning.masking import MaskingChecks, MaskingFlag
from lsa_lightning.measures import ComparisonMeasure, RelativeError
from lsa_lightning.utils.checks import choice, flag, instance, integer, mapping, number, or_none, refuse
from lsa_lightning.utils.distributed import size_of_own_share
from lsa_lightning.utils.progress import Progress, forward_passes, number_of_batches

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Analysis:
    """What :class:`AnalysisStage` found.

    Attributes:
        reports: report by attack, all of the same layers and measure.
        mvl_from: the attack that the MVL is chosen under.
        mvl: the Most Vulnerable Layers.
        eta: threshold of Algorithm 1 that they lie above, in units of sigma; None: they are the k most vulnerable ones.
    """

    reports: dict[str, SustainabilityReport]
    mvl_from: str
    mvl: list[str]
    eta: float | None = None

    @property
    def report(self) -> SustainabilityReport:
        """The one that the MVL comes from."""
        return self.reports[self.mvl_from]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per attack and layer."""
        import pandas as pd

        frames = {name: report.to_dataframe() for name, report in self.reports.items()}
        return pd.concat(frames, names=["attack"]).reset_index(level=0)

    @property
    def threshold(self) -> float | None:
        """``mu + eta sigma``, if that is what the MVL was chosen by."""
        return None if self.eta is None else float(self.report.mu + self.eta * self.report.sigma)


def unit_in_words(bounds: Sequence[float] | None) -> str:
    """What radii are measured in.

    Example:
        >>> unit_in_words((0.0, 1.0)), unit_in_words(None)
        ('inputs in [0, 1]', 'units of the input')
    """
    return "units of the input" if bounds is None else f"inputs in [{bounds[0]:g}, {bounds[1]:g}]"


class AnalysisStage:
    """LSA of a trained model under several attacks.

    Args:
        attacks: attack by name, at least one; None, null in a configuration, leaves one out.
        mvl_from: name of the attack that the MVL is chosen under.
        measure: the comparison measure; default :class:`~lsa_lightning.measures.RelativeError`.
        layers: see :func:`~lsa_lightning.layers.resolve.resolve_layers`.
        eta: threshold of Algorithm 1 in units of sigma.
        top_k: if given, the k most vulnerable layers instead.
        limit_batches: number of batches >= 1, or None for all.
        progress: whether to show how far it is; see :class:`~lsa_lightning.RobustnessEvaluation`.

    Raises:
        ValueError: if an argument is outside its range, or ``mvl_from`` names no attack.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack | None],
        *,
        mvl_from: str,
        measure: ComparisonMeasure | None = None,
        layers: LayerSpec = None,
        eta: float = 0.0,
        top_k: int | None = None,
        limit_batches: int | None = None,
        progress: bool | None = None,
    ) -> None:
        self.attacks = mapping(self, "attacks", _without_null(attacks), instance, kind=Attack)
        self.mvl_from = choice(self, "mvl_from", mvl_from, self.attacks)
        self.measure = or_none(instance, self, "measure", measure, ComparisonMeasure)
        self.layers = checked_layers(self, layers)
        self.eta = number(self, "eta", eta)
        self.top_k = or_none(integer, self, "top_k", top_k, low=1)
        self.limit_batches = or_none(integer, self, "limit_batches", limit_batches, low=1)
        self.progress = or_none(flag, self, "progress", progress)

    def check_names(self, model: nn.Module) -> None:
        """Raise a ValueError if one of the layers is no submodule of ``model``."""
        layers = [] if self.layers is None or isinstance(self.layers, type) else self.layers
        try:
            check_names_exist(model, [name for name in layers if isinstance(name, str)])
        except ValueError as error:
            msg = f"analysis.layers: {error}"
            raise ValueError(msg) from error

    def errors_of(self, model: nn.Module) -> LayerErrors:
        """What measures the layers of ``model`` sample by sample."""
        return LayerErrors(model, self.layers, self.measure or RelativeError())

    def run(self, model: nn.Module, dataloader: Iterable[Any]) -> Analysis:
        """Analyse ``model`` under each attack; see :meth:`LayerSustainabilityAnalysis.run`.

        In a distributed run, all processes must, and pass the same dataloader; each takes its share of the batches.
        """
        analysis = LayerSustainabilityAnalysis(model, layers=self.layers, measure=self.measure)
        batches = size_of_own_share(number_of_batches(dataloader, self.limit_batches))
        steps = None if batches is None else batches * sum(map(forward_passes, self.attacks.values()))
        with Progress("Analysing", steps, self.progress) as progress:
            reports = {
                name: analysis.run(dataloader, attack, limit_batches=self.limit_batches, spread=True, progress=progress)
                for name, attack in self.attacks.items()
            }
        return self.found(reports)

    def found(self, reports: dict[str, SustainabilityReport]) -> Analysis:
        """What reports by attack say."""
        mvl = reports[self.mvl_from].most_vulnerable(self.eta, self.top_k)
        return Analysis(reports, self.mvl_from, mvl, self.eta if self.top_k is None else None)


class EvaluationStage:
    """Accuracy of a trained model, attacks times radii, and masking checks.

    Args:
        attacks: attack by name, at least one; None, null in a configuration, leaves one out.
        eps: radii > 0, at least one, which R&G is summed over, with the clean column.
        training_eps: radius > 0 of training, which is always among the columns; None: not known.
        exact: what robust accuracy is read off by for points in the plane, beside the attacks; None: no such row.
        ceiling: what bounds the accuracy of every classifier on the samples; None: it is not asked for.
        limit_batches: number of batches >= 1, or None for all.
        seed: see :class:`~lsa_lightning.RobustnessEvaluation`.
        progress: see :class:`~lsa_lightning.RobustnessEvaluation`.
        masking: the checks, which look at the radii beyond theirs too; None: none.
        draw: name of the attack under which samples are looked at one by one, and drawn, at the radius of training if
            that is known; None: none are.
        look_at: how many of the first samples, >= 1.
        save_examples: how many of these are saved with their adversarial partners, >= 0 and <= ``look_at``.

    Raises:
        ValueError: if an argument is outside its range, or ``draw`` names no attack.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack | None],
        eps: Sequence[float],
        *,
        training_eps: float | None = None,
        exact: PlaneGrid | None = None,
        ceiling: CeilingBound | None = None,
        limit_batches: int | None = None,
        seed: int = 0,
        progress: bool | None = None,
        masking: MaskingChecks | None = None,
        draw: str | None = None,
        look_at: int = 1000,
        save_examples: int = 0,
    ) -> None:
        self.evaluation = RobustnessEvaluation(
            _without_null(attacks),
            eps,
            training_eps=training_eps,
            exact=exact,
            limit_batches=limit_batches,
            seed=seed,
            progress=progress,
        )
        self.ceiling = or_none(instance, self, "ceiling", ceiling, CeilingBound)
        check_same_space(self, "ceiling", self.ceiling, self.evaluation.attacks.values())
        checks = or_none(instance, self, "masking", masking, MaskingChecks)
        check_same_space(self, "masking", checks, self.evaluation.attacks.values())
        self.masking = None if checks is None else checks.with_radii(self.evaluation.eps[1:])
        self.drawn = or_none(choice, self, "draw", draw, self.evaluation.attacks)
        self.look_at = integer(self, "look_at", look_at, low=1)
        self.save_examples = integer(self, "save_examples", save_examples, low=0, high=self.look_at)
        if self.save_examples and self.drawn is None:
            refuse(self, "draw", "the name of an attack, whose examples are saved", draw)

    @property
    def metrics(self) -> list[str]:
        """Names of what it measures, as in the summary's ``metrics``."""
        radii = self.evaluation.eps[1:]
        attacks = [*self.evaluation.attacks, *([] if self.evaluation.exact is None else [EXACT])]
        accuracies = [f"accuracy/{attack}/{eps:g}" for attack in attacks for eps in radii]
        return ["accuracy/clean", *accuracies, *(f"rg_score/{attack}" for attack in attacks)]

    def run(
        self, model: nn.Module, dataloader: Iterable[Any], state_file: Path | None = None, label: str = "Evaluating"
    ) -> RobustnessTable:
        """Measure the accuracies, see :meth:`RobustnessEvaluation.run`, and what no classifier exceeds."""
        return self.with_ceiling(self.evaluation.run(model, dataloader, state_file, label=label), dataloader)

    def with_ceiling(self, table: RobustnessTable, dataloader: Iterable[Any]) -> RobustnessTable:
        """The table of these samples, with their ceiling if it is asked for."""
        if self.ceiling is None:
            return table
        return replace(
            table, ceiling=self.ceiling.run(dataloader, table.eps, table.rg_eps, self.evaluation.limit_batches)
        )

    def check(self, model: nn.Module, dataloader: Iterable[Any]) -> dict[str, MaskingFlag]:
        """Run the masking checks; without any, no flags."""
        return {} if self.masking is None else self.masking.run(model, dataloader)

    @property
    def steps_in_words(self) -> str:
        """How many steps the attacks take that have any; empty without such."""
        steps = {name: attack.steps for name, attack in self.evaluation.attacks.items() if hasattr(attack, "steps")}
        return ", ".join(f"{name} {number}" for name, number in steps.items())

    @property
    def unit(self) -> str:
        """What radii are measured in: the inputs of the attacks."""
        bounds = {attack.bounds for attack in self.evaluation.attacks.values()}
        return unit_in_words(bounds.pop() if len(bounds) == 1 else None)

    def observe(self, model: nn.Module, dataloader: Iterable[Any], analysis: AnalysisStage | None) -> Observed | None:
        """Look at the first samples under the attack ``draw``, and at the layers of ``analysis``; None without it.

        Args:
            model: see :meth:`run`.
            dataloader: see :meth:`run`.
            analysis: says which layers, and by what measure; None: how far they are moved is left out.
        """
        if self.drawn is None:
            return None
        attack, radius = self.evaluation.attacks[self.drawn], self.evaluation.training_eps
        return observe(
            model,
            islice(dataloader, self.evaluation.limit_batches),
            self.drawn,
            attack if radius is None else attack.with_eps(radius),
            samples=self.look_at,
            keep=max(POINTS, self.save_examples),
            errors_of=None if analysis is None else analysis.errors_of(model),
        )


@dataclass(frozen=True)
class Evaluation:
    """The accuracies of a model, and the masking flags by name (none if the checks are off)."""

    table: RobustnessTable
    masking: dict[str, MaskingFlag]

    @property
    def flags_in_words(self) -> str:
        """Names of the flags that were raised, ``none``, or ``not checked``."""
        raised = ", ".join(name for name, flag in self.masking.items() if flag.raised) or "none"
        return raised if self.masking else "not checked"

    def to_dataframe(self) -> pd.DataFrame:
        """The table with a column of the masking flags that were raised, the same in each row."""
        return self.table.to_dataframe().assign(masking=self.flags_in_words)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers: those of the table, and ``masking``."""
        return {**self.table.to_dict(), "masking": {name: flag.to_dict() for name, flag in self.masking.items()}}


def _without_null(attacks: Mapping[str, Attack | None]) -> Any:
    return {k: v for k, v in attacks.items() if v is not None} if isinstance(attacks, Mapping) else attacks
