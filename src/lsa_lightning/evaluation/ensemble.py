"""Accuracy that is left after each attack of an ensemble: streaming, resumable, on several processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Ensemble
from lsa_lightning.attacks.attacked import AttackedModel
from lsa_lightning.attacks.checks import Checks
from lsa_lightning.evaluation.accuracy import correct
from lsa_lightning.evaluation.state import FinishedBatches, answer_of, digest, settings_of
from lsa_lightning.utils.batch import BatchFn, check_samples, move_data_to_device, read_batch, read_samples
from lsa_lightning.utils.checks import instance, integer, or_none
from lsa_lightning.utils.distributed import gathered, own_share, place, together
from lsa_lightning.utils.isolation import frozen, lent, preserved_random_state
from lsa_lightning.utils.outputs import LogitsOf, OutputFn
from lsa_lightning.utils.random import Purpose, seed_of
from lsa_lightning.utils.renamed import renamed


@dataclass(frozen=True)
class EnsembleResult:
    """What :func:`evaluate_ensemble` found.

    Attributes:
        accuracy: percentage of samples that still stand, in [0, 100]: ``clean``, then after each attack in turn.
        left_out: by attack, why it was not run; its robust accuracy may then be too high.
        samples: number of samples.
    """

    accuracy: dict[str, float]
    left_out: dict[str, str]
    samples: int

    @property
    def robust_accuracy(self) -> float:
        """What is left after all attacks, in percent."""
        return list(self.accuracy.values())[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {**asdict(self), "robust_accuracy": self.robust_accuracy}


@renamed(max_batches="limit_batches")
def evaluate_ensemble(
    model: nn.Module,
    dataloader: Iterable[Any],
    ensemble: Ensemble,
    *,
    state_file: str | Path | None = None,
    batch_fn: BatchFn = read_batch,
    output_fn: OutputFn | None = None,
    limit_batches: int | None = None,
    seed: int = 0,
) -> EnsembleResult:
    """Run ``ensemble`` over ``dataloader``, each attack on the points that all before it left standing.

    Memory does not grow with the data set. Each batch's random numbers, also those of a model that draws some itself,
    depend on the seeds and on the batch's number alone, so the result does not depend on interruptions or on the number
    of processes. The global random state is afterwards as before.

    Args:
        model: maps x to logits; runs in eval mode and is left as it was.
        dataloader: batches in a fixed order; they are moved to the model's device. With several processes, give each
            the same one, not a share of it: of P processes, number p takes the batches p, p + P, p + 2 P, ...
        ensemble: the attacks.
        state_file: where finished batches are noted (process p > 0 appends ``.rank<p>`` to the name); those noted there
            already are not run again. None: no file.
        batch_fn: ``batch -> (x, y)``.
        output_fn: see :class:`~lsa_lightning.utils.outputs.LogitsOf`.
        limit_batches: number of batches >= 1, or None for all.
        seed: seed of a model that draws random numbers.

    Returns:
        The accuracies over all processes.

    Raises:
        ValueError: if there is no batch, or the file belongs to another model, ensemble or order of the data.
        RuntimeError: if another process failed.
    """
    instance("evaluate_ensemble", "model", model, nn.Module)
    instance("evaluate_ensemble", "ensemble", ensemble, Ensemble)
    limit_batches = or_none(integer, "evaluate_ensemble", "limit_batches", limit_batches, low=1)
    seed = integer("evaluate_ensemble", "seed", seed)
    counts = _Counts(list(ensemble.attacks))
    with together():
        header = {"ensemble": settings_of(ensemble.attacks), "model": digest(model.state_dict()), "seed": seed}
        finished = FinishedBatches(state_file, header, place()[0])
        device = next(model.parameters(), torch.zeros(())).device
        logits_of = LogitsOf(model, output_fn)
        for index, batch in own_share(islice(dataloader, limit_batches)):
            x, y = read_samples(batch_fn, move_data_to_device(batch, device))
            check_samples(x, y)
            fingerprint = digest({"x": x, "y": y})
            answer = partial(answer_of, logits_of, x)
            standing = finished.recall(index, fingerprint, answer)
            if standing is None:
                with preserved_random_state(x.device):
                    torch.manual_seed(seed_of(seed, Purpose.EVALUATED_MODEL, index))
                    standing = _standing(logits_of, ensemble.with_stream(index), x, y)
                finished.note(index, fingerprint, answer, standing)
            counts.add(len(x), standing)
    return counts.result(ensemble)


def _standing(model: nn.Module, ensemble: Ensemble, x: Tensor, y: Tensor) -> dict[str, int]:
    """How many samples stand after each attack that the model has enough classes for."""
    with lent(model, x.device), frozen(model) as thaw:
        correct(model, x, y)  # where outputs are no logits or labels no classes, an error
        checks, counts = Checks(), {}
        attacked = AttackedModel(model, checks, thaw, _unchecked)  # as the ensemble's own call has it
        for name, x_adv, standing in ensemble.in_turn(attacked, x, y):
            # In a model that mixes samples, one stands or falls with where the others are in the end.
            counts[name] = int((correct(model, x_adv, y) if checks.mixes else standing).sum())
        return counts


def _unchecked(*_: object) -> None:
    """What each attack checks itself."""


class _Counts:
    """Sums over batches: samples, samples that stand after each attack, and batches that it was run on."""

    def __init__(self, attacks: list[str]) -> None:
        self.names = ["clean", *attacks]
        self.samples = 0
        self.standing = dict.fromkeys(self.names, 0)
        self.batches = dict.fromkeys(self.names, 0)

    def add(self, samples: int, standing: dict[str, int]) -> None:
        """Count a batch."""
        self.samples += samples
        for name, count in standing.items():
            self.standing[name] += count
            self.batches[name] += 1

    def result(self, ensemble: Ensemble) -> EnsembleResult:
        """Percentages, summed over the processes."""
        each = gathered([self.samples, *self.standing.values(), *self.batches.values()])
        samples, *rest = map(sum, zip(*each, strict=True))
        if samples == 0:
            msg = "expected a dataloader with at least one batch, got an empty one"
            raise ValueError(msg)
        standing, batches = rest[: len(self.names)], rest[len(self.names) :]
        run = dict(zip(self.names, batches, strict=True))
        accuracy = {name: 100 * n / samples for name, n in zip(self.names, standing, strict=True) if run[name]}
        left_out = {
            name: f"needs {attack.min_classes} classes, the model has fewer"
            for name, attack in ensemble.attacks.items()
            if not run[name]
        }
        return EnsembleResult(accuracy, left_out, samples)
