"""Analysis and evaluation of stacked models: attacks on all at once, and each one's own figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.evaluation import RobustnessEvaluation, RobustnessTable, correct
from lsa_lightning.evaluation.robustness import _key
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.layers.resolve import LayerSpec
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.stacked.draws import Part, drawing, draws_of
from lsa_lightning.stacked.network import by_model, frozen, load, split
from lsa_lightning.utils.batch import read_batch
from lsa_lightning.utils.isolation import preserved_random_state
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
    """LSA of stacked models: the inputs are perturbed for all at once, then each model is analysed on its own.

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
        self, batches: Iterable[Sequence[Any]], attack: Attack, seeds: Sequence[int] | None = None
    ) -> list[SustainabilityReport]:
        """The report of each model; see :meth:`LayerSustainabilityAnalysis.run`.

        Args:
            batches: one of each model at a time.
            attack: the attack.
            seeds: the seed of each model, where a batch's random numbers depend on it and the batch's number alone
                (``spread``); None: the attack draws one batch's after the other's.
        """
        models = len(self.models)
        own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.models]
        perturbed: list[list[Tensor]] = [[] for _ in self.models]
        for number, batch in enumerate(batches):
            x, y = joined(batch, self.unpack)
            if seeds is None:
                x_adv = self._perturbed(x, y, attack)
            else:
                with draws_of([seed_of(seed, Purpose.ANALYSED_MODEL, number) for seed in seeds], models):
                    x_adv = self._perturbed(x, y, attack.with_stream(number))
            for index, parts in enumerate(zip(split(x, models), split(y, models), split(x_adv, models), strict=True)):
                own[index].append(parts[:2])
                perturbed[index].append(parts[2])
        return [
            analysis.run(pairs, _Prepared(attack, partners))
            for analysis, pairs, partners in zip(self.analyses, own, perturbed, strict=True)
        ]

    def _perturbed(self, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
        with frozen(self.net):
            (x_adv,) = in_parts(lambda rows, labels: [attack(self.net, rows, labels)], x, y, len(self.models))
        return x_adv


class _Prepared:
    """An attack whose results are there already, batch by batch."""

    def __init__(self, attack: Attack, perturbed: Iterable[Tensor]) -> None:
        self.attack = attack
        self.perturbed = iter(perturbed)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return next(self.perturbed)

    def __repr__(self) -> str:
        return repr(self.attack)


def evaluate(
    evaluation: RobustnessEvaluation, net: nn.Module, batches: Iterable[Sequence[Any]], models: int
) -> list[RobustnessTable]:
    """The table of each of the stacked ``models``; see :meth:`RobustnessEvaluation.run`."""
    sums: list[Counter[str]] = [Counter() for _ in range(models)]
    for index, batch in enumerate(islice(batches, evaluation.limit_batches)):
        x, y = joined(batch, evaluation.batch_fn)
        for name, hits in _hits(evaluation, net, x, y, index, models).items():
            for counter, count in zip(sums, hits.view(models, -1).sum(1).tolist(), strict=True):
                counter[name] += count
        for counter in sums:
            counter["samples"] += len(x) // models
    return [evaluation._table(counter) for counter in sums]


def _hits(
    evaluation: RobustnessEvaluation, net: nn.Module, x: Tensor, y: Tensor, index: int, models: int
) -> dict[str, Tensor]:
    """Which samples are classified correctly, by the name of the count."""
    attacks = {_key(*place): attack.with_stream(index) for place, attack in evaluation._grid.items()}

    def hits(rows: Tensor, labels: Tensor) -> list[Tensor]:
        perturbed = (attack(net, rows, labels) for attack in attacks.values())
        return [correct(net, inputs, labels, evaluation.output_fn) for inputs in (rows, *perturbed)]

    with preserved_random_state(x.device), draws_of(None, models), frozen(net):
        torch.manual_seed(seed_of(evaluation.seed, Purpose.EVALUATED_MODEL, index))
        return dict(zip(["clean", *attacks], in_parts(hits, x, y, models), strict=True))
