"""Analysis and evaluation of stacked models: attacks on all at once, and each one's own figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.evaluation import RobustnessEvaluation, RobustnessTable, correct
from lsa_lightning.evaluation.robustness import _key
from lsa_lightning.evaluation.state import answer_of, digest
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.calls import CallSite
from lsa_lightning.layers.pairs import BatchComparison
from lsa_lightning.layers.profile import LayerProfile
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.layers.resolve import LayerSpec, locate_layers
from lsa_lightning.masking import MaskingChecks, MaskingFlag
from lsa_lightning.masking.checks import CheckedBatch
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.stacked.draws import Part, drawing, draws_of
from lsa_lightning.stacked.network import by_model, load, split
from lsa_lightning.utils.batch import read_batch
from lsa_lightning.utils.isolation import evaluating, preserved_random_state
from lsa_lightning.utils.outputs import LogitsOf
from lsa_lightning.utils.progress import Progress, forward_passes
from lsa_lightning.utils.random import Purpose, seed_of

_ROWS = 2560
"""Rows of all models together that one pass takes: their activations stay in the processor's caches."""

Unpack = Callable[[Any], tuple[Tensor, Tensor]]


def joined(batches: Sequence[Any], unpack: Unpack = read_batch) -> tuple[Tensor, Tensor]:
    """The inputs and labels of one batch of each model, ``[S N, ...]``.

    Raises:
        ValueError: if the batches are not of one size.
    """
    pairs = [unpack(batch) for batch in batches]
    if len({x.shape for x, _ in pairs}) != 1:
        msg = f"expected batches of one shape from all seeds, got {[tuple(x.shape) for x, _ in pairs]}"
        raise ValueError(msg)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def in_parts(function: Callable[[Tensor, Tensor], Sequence[Tensor]], x: Tensor, y: Tensor, models: int) -> list[Tensor]:
    """What ``function`` gives for a few samples of each model at a time, put together, ``[S N, ...]`` each."""
    inputs, labels = by_model(x, models), by_model(y, models)
    results = []
    for part in _parts(inputs.shape[1], models):
        with drawing(part):
            rows = inputs[:, part.rows].flatten(0, 1), labels[:, part.rows].flatten(0, 1)
            results.append([by_model(each, models) for each in function(*rows)])
    return [torch.cat(each, dim=1).flatten(0, 1) for each in zip(*results, strict=True)]


def _parts(samples: int, models: int) -> Iterator[Part]:
    size = max(_ROWS // models, 1)
    for start in range(0, samples, size):
        yield Part(slice(start, min(start + size, samples)), samples)


class StackedAnalysis:
    """LSA of stacked models, all at once.

    Where the measure looks at several samples together, inputs are perturbed for all at once, and then each model is
    analysed on its own.

    Args:
        net: the stacked models.
        models: a single model for each, which takes its weights.
        layers: see :func:`~lsa_lightning.layers.resolve.resolve_layers`.
        measure: the comparison measure; default :class:`~lsa_lightning.measures.RelativeError`.
        unpack: reads inputs and labels out of a batch.
    """

    def __init__(
        self,
        net: nn.Module,
        models: Sequence[nn.Module],
        layers: LayerSpec = None,
        measure: ComparisonMeasure | None = None,
        unpack: Unpack = read_batch,
    ) -> None:
        self.net = net
        self.models = models
        self.unpack = unpack
        for index, model in enumerate(models):
            load(net, index, into=model)
        self.analyses = [LayerSustainabilityAnalysis(model, layers=layers, measure=measure) for model in models]

    def run(
        self,
        batches: Iterable[Sequence[Any]],
        attack: Attack,
        progress: Progress | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[SustainabilityReport]:
        """The report of each model; see :meth:`LayerSustainabilityAnalysis.run`.

        Args:
            batches: one of each model at a time.
            attack: the attack.
            progress: where it is shown.
            seeds: the seed of each model, where a batch's random numbers depend on it and the batch's number alone
                (``spread``); None: the attack draws one batch's after the other's.
        """
        pairs = self._perturbed(batches, attack, progress, seeds)
        if self.analyses[0].measure.sample_by_sample:
            return self._together(pairs, attack)
        models = len(self.models)
        own = [[(split(x, models)[i], split(y, models)[i]) for x, y, _ in pairs] for i in range(models)]
        partners = [[split(x_adv, models)[i] for _, _, x_adv in pairs] for i in range(models)]
        return [
            analysis.run(batches, _Prepared(attack, perturbed), progress=False)
            for analysis, batches, perturbed in zip(self.analyses, own, partners, strict=True)
        ]

    def _perturbed(
        self, batches: Iterable[Sequence[Any]], attack: Attack, progress: Progress | None, seeds: Sequence[int] | None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Inputs, labels and perturbed inputs of each batch, ``[S N, ...]``."""
        results = []
        for number, batch in enumerate(batches):
            x, y = joined(batch, self.unpack)
            if seeds is None:
                x_adv = self._attacked(x, y, attack)
            else:
                with draws_of([seed_of(seed, Purpose.ANALYSED_MODEL, number) for seed in seeds], len(self.models)):
                    x_adv = self._attacked(x, y, attack.with_stream(number))
            results.append((x, y, x_adv))
            if progress is not None:
                progress.advance(forward_passes(attack))
        return results

    def _attacked(self, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
        return in_parts(lambda rows, labels: [attack(self.net, rows, labels)], x, y, len(self.models))[0]

    def _together(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], attack: Attack) -> list[SustainabilityReport]:
        models, lead = len(self.models), self.analyses[0]
        with evaluating(self.models[0]), torch.no_grad():
            layers, sites = locate_layers(self.models[0], lead.layers, split(pairs[0][0], models)[0])
        compared = _StackedComparison(self.net, {each.name: sites[each.name] for each in layers}, lead.measure, models)
        profiles = [LayerProfile([each.name for each in layers]) for _ in self.models]
        for x, _, x_adv in pairs:
            with evaluating(self.net), torch.no_grad():
                errors = compared.errors(x, x_adv).cpu()
            for profile, own in zip(profiles, split(errors, models), strict=True):
                profile.update(own)
        return [lead.report(layers, profile, attack) for profile in profiles]


class _StackedComparison(BatchComparison):
    """Some clean samples of each model and their partners in one pass, then the next ones."""

    def __init__(self, net: nn.Module, layers: Mapping[str, CallSite], measure: ComparisonMeasure, models: int) -> None:
        super().__init__(net, layers, measure)
        self.models = models

    def errors(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The values of all layers, ``[S N, L]``."""
        return in_parts(lambda rows, partners: [self._errors_of(rows, partners)], x, x_adv, self.models)[0]

    def _errors_of(self, x: Tensor, x_adv: Tensor) -> Tensor:
        both = torch.cat([by_model(x, self.models), by_model(x_adv, self.models)], dim=1).flatten(0, 1)

        def compare(_: str, representation: Tensor) -> Tensor:
            clean, adversarial = by_model(representation, self.models).tensor_split(2, dim=1)
            return self.measure(clean.flatten(0, 1), adversarial.flatten(0, 1))

        return self._stacked(self._kept(both, compare))


class _Prepared:
    """An attack whose results are there already, batch by batch."""

    def __init__(self, attack: Attack, perturbed: Iterable[Tensor]) -> None:
        self.attack = attack
        self.perturbed = iter(perturbed)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        # Batches that are too small for the measure are not asked for.
        return next(perturbed for perturbed in self.perturbed if len(perturbed) == len(x))

    def __repr__(self) -> str:
        return repr(self.attack)


def evaluate(
    evaluation: RobustnessEvaluation,
    net: nn.Module,
    models: Sequence[nn.Module],
    batches: Sequence[Sequence[Any]],
    files: Sequence[Path],
) -> list[RobustnessTable]:
    """The table of each model; see :meth:`RobustnessEvaluation.run`.

    Args:
        evaluation: the evaluation.
        net: the stacked models.
        models: the single ones, of the same weights.
        batches: for each batch, that of each model.
        files: for each model, where its finished batches are noted; what is there is replaced.
    """
    notes = []
    for model, file in zip(models, files, strict=True):
        file.unlink(missing_ok=True)
        notes.append(evaluation.finished_batches(model, file))
    sums: list[Counter[str]] = [Counter() for _ in models]
    some = list(islice(batches, evaluation.limit_batches))
    with Progress("Evaluating", evaluation._steps(some), evaluation.progress) as progress:
        for index, batch in enumerate(some):
            x, y = joined(batch, evaluation.batch_fn)
            hits = _hits(evaluation, net, x, y, index, len(models), progress)
            counts = {name: each.view(len(models), -1).sum(1).tolist() for name, each in hits.items()}
            parts = zip(models, split(x, len(models)), split(y, len(models)), notes, sums, strict=True)
            for number, (model, rows, labels, note, total) in enumerate(parts):
                own = {"samples": len(rows), **{name: each[number] for name, each in counts.items()}}
                own |= evaluation.count_exactly(model, rows, labels)
                answer = partial(answer_of, LogitsOf(model, evaluation.output_fn), rows)
                note.note(index, digest({"x": rows, "y": labels}), answer, own)
                total.update(own)
    return [evaluation._table(total) for total in sums]


def _hits(
    evaluation: RobustnessEvaluation, net: nn.Module, x: Tensor, y: Tensor, index: int, models: int, progress: Progress
) -> dict[str, Tensor]:
    """Which samples are classified correctly, by the name of the count."""
    attacks = {_key(*place): attack.with_stream(index) for place, attack in evaluation._grid.items()}

    def hits(rows: Tensor, labels: Tensor) -> list[Tensor]:
        found = [correct(net, rows, labels, evaluation.output_fn)]
        for attack in attacks.values():
            found.append(correct(net, attack(net, rows, labels), labels, evaluation.output_fn))
            progress.advance(forward_passes(attack) * len(rows) / len(x))
        progress.advance(len(rows) / len(x))
        return found

    with preserved_random_state(x.device), draws_of(None, models):
        torch.manual_seed(seed_of(evaluation.seed, Purpose.EVALUATED_MODEL, index))
        return dict(zip(["clean", *attacks], in_parts(hits, x, y, models), strict=True))


def check_masking(
    checks: MaskingChecks, net: nn.Module, models: int, batches: Iterable[Sequence[Any]]
) -> list[dict[str, MaskingFlag]]:
    """The flags of each of the stacked ``models``; see :meth:`MaskingChecks.run`."""
    logits_of, missing = LogitsOf(net, checks.output_fn), checks.n_samples
    some: list[CheckedBatch] = []
    for number, batch in enumerate(batches):
        x, y = (by_model(rows, models)[:, :missing] for rows in joined(batch, checks.batch_fn))
        missing -= x.shape[1]
        some.append(CheckedBatch(*checks.in_pixels(logits_of, x.flatten(0, 1)), y.flatten(0, 1), number))
        if missing == 0:
            break
    with draws_of(None, models):
        return checks.flags_of(some, models)
