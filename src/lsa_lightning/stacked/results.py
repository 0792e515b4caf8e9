"""What comes after training many seeds at once: measured for all together, written into each seed's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning.pytorch as pl
from torch import nn

from lsa_lightning.jobs.attempt import Attempt
from lsa_lightning.jobs.ending import Kept, history_of, load_best, log_results, validated_at, what_was_trained
from lsa_lightning.jobs.finished_stages import EVALUATION_STATE, FinishedStages
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.runs.console import show
from lsa_lightning.runs.folder import figures_of, figures_together, versions
from lsa_lightning.runs.signals import Signals
from lsa_lightning.runs.stages import Analysis, AnalysisStage, Evaluation, EvaluationStage
from lsa_lightning.runs.status import State
from lsa_lightning.runs.summary import AnalysisSummary, RunSummary
from lsa_lightning.runs.write import (
    write_analysis,
    write_evaluation,
    write_history,
    write_observed,
    write_table,
    write_training,
)
from lsa_lightning.stacked.job import SeedJob
from lsa_lightning.stacked.measure import StackedAnalysis, check_masking, evaluate
from lsa_lightning.stacked.network import load, stack
from lsa_lightning.stacked.training import StackedTraining
from lsa_lightning.stacked.view import SeedTrainer
from lsa_lightning.utils.batch import move_data_to_device
from lsa_lightning.utils.progress import Progress, forward_passes

_AT_ONCE = 10
"""Seeds whose figures are drawn together."""


@dataclass(frozen=True, eq=False)
class SeedResults:
    """What one seed's training and the stages after it gave.

    Attributes:
        job: the seed's job, whose model has the weights that were measured.
        view: its Trainer.
        kept: where these weights are from.
        analysis: the layers; None: left out.
        evaluation: accuracies and masking flags; None: left out.
    """

    job: SeedJob
    view: SeedTrainer
    kept: Kept
    analysis: Analysis | None
    evaluation: Evaluation | None

    def write(self) -> None:
        """Write what was found to the run folder, and note the stages as finished."""
        job = self.job
        stages = FinishedStages(job.folder, job.model)
        if self.analysis is not None:
            write_analysis(self.analysis, job.folder)
            stages.add("analysis", job.config.analysis)
        if self.evaluation is not None:
            assert job.evaluation is not None  # else there is no table
            write_table(self.evaluation.table, job.folder, job.evaluation.unit)
            write_evaluation(self.evaluation, job.folder)
            for stage in ("evaluation", "masking"):
                stages.add(stage, job.config.evaluation)
        if job.evaluation is not None:
            pl.seed_everything(job.seed, workers=True, verbose=False)
            write_observed(job.evaluation, job.model, job.test_batches(), job.folder, job.analysis)
        write_history(history_of(job.callbacks), job.folder)
        write_training(
            job.folder, self.kept.epoch, validated_at(job.callbacks), self.kept.monitor or "", self.kept.step
        )

    def end(self, seconds: float) -> None:
        """Write the summary, and give the loggers what they keep elsewhere.

        Args:
            seconds: the share of this seed in the time of training.
        """
        job, evaluation = self.job, self.evaluation
        summary = RunSummary(
            name=job.config.name,
            seed=job.seed,
            trained=what_was_trained(job.config, job.callbacks),
            epochs=self.view.current_epoch,
            training_seconds=round(seconds, 2),
            checkpoint=self.kept.file,
            checkpoint_epoch=self.kept.epoch,
            checkpoint_step=self.kept.step,
            validation=self.kept.validation,
            analysis=None if self.analysis is None else AnalysisSummary.of(self.analysis),
            evaluation=None if evaluation is None else evaluation.table,
            masking={} if evaluation is None else evaluation.masking,
            history=history_of(job.callbacks),
            versions=versions(),
        )
        summary.save(job.folder)
        log_results(job.loggers, self.view, summary, job.folder)
        shown = "trained" if evaluation is None else f"R&G {summary.scores_in_words}"
        measured = [] if shown == "trained" else [f"Measured: {self.kept.in_words(summary.epochs)}"]
        show(f"Seed {job.seed}: {shown}", *measured, f"Run folder: {job.folder}")


def measure_and_write(module: StackedTraining, attempts: Sequence[Attempt], seconds: float, signals: Signals) -> None:
    """The stages after training, on the test split; a seed is finished when everything of it is written.

    Args:
        module: the trained seeds.
        attempts: what is noted as finished, one for each seed.
        seconds: the share of a seed in the time of training.
        signals: asked between the stages and the seeds, for one that was lost, see
            :class:`~lsa_lightning.stacked.progress.SeedStatus`.
    """
    signals.check()
    results = _measure(module)
    pairs = iter(zip(results, attempts, strict=True))
    while some := list(islice(pairs, _AT_ONCE)):
        with figures_together():
            for result, _ in some:
                signals.check()
                with figures_of(result.job.config.name, result.job.seed):
                    result.write()
        for result, attempt in some:
            signals.check()
            result.end(seconds)
            attempt.note(State.FINISHED)


def _measure(module: StackedTraining) -> list[SeedResults]:
    jobs, views = module.jobs, module.views
    kept = [_best(module, index) for index in range(len(jobs))]
    net = stack([job.model for job in jobs]).to(module.device)
    first = jobs[0]
    batches: list[Any] = []
    if first.analysis is not None or first.evaluation is not None:
        loaders = (job.test_batches() for job in jobs)
        batches = [move_data_to_device(each, module.device) for each in zip(*loaders, strict=True)]
    analyses = [None] * len(jobs) if first.analysis is None else _analyse(first.analysis, module, net, batches)
    found = [None] * len(jobs) if first.evaluation is None else _evaluate(first.evaluation, jobs, net, batches)
    parts = zip(jobs, views, kept, analyses, found, strict=True)
    return [SeedResults(*each) for each in parts]


def _best(module: StackedTraining, index: int) -> Kept:
    """Put a seed's best weights into its model; where they are from."""
    model = module.jobs[index].model
    load(module.net, index, into=model)
    kept = load_best(module.views[index], model)
    model.to(module.device)
    return kept


def _analyse(
    stage: AnalysisStage, module: StackedTraining, net: nn.Module, batches: Sequence[Sequence[Any]]
) -> list[Analysis | None]:
    """Each seed's analysis under each attack."""
    models = [job.model for job in module.jobs]
    stacked = StackedAnalysis(net, models, stage.layers, stage.measure)
    reports: list[dict[str, SustainabilityReport]] = [{} for _ in models]
    some = batches[: stage.limit_batches]
    steps = len(some) * sum(map(forward_passes, stage.attacks.values()))
    with Progress("Analysing", steps, stage.progress) as progress:
        for name, attack in stage.attacks.items():
            found = stacked.run(some, attack, progress, module.seeds)
            for own, report in zip(reports, found, strict=True):
                own[name] = report
    return [stage.found(own) for own in reports]


def _evaluate(
    stage: EvaluationStage, jobs: Sequence[SeedJob], net: nn.Module, batches: Sequence[Sequence[Any]]
) -> list[Evaluation | None]:
    """Each seed's accuracies and masking flags."""
    files = [job.folder / EVALUATION_STATE for job in jobs]
    measured = evaluate(stage.evaluation, net, [job.model for job in jobs], batches, files)
    own = [[batch[number] for batch in batches] for number in range(len(jobs))]
    tables = [stage.with_ceiling(table, rows) for table, rows in zip(measured, own, strict=True)]
    masking = [{}] * len(jobs) if stage.masking is None else check_masking(stage.masking, net, len(jobs), batches)
    return [Evaluation(table, flags) for table, flags in zip(tables, masking, strict=True)]
