"""Accuracy under attacks times eps, and the R&G score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.attacks.base import staying
from lsa_lightning.attacks.input_space import check_same_space
from lsa_lightning.evaluation.accuracy import correct
from lsa_lightning.evaluation.plane import PlaneGrid
from lsa_lightning.evaluation.state import FinishedBatches, answer_of, digest, settings_of
from lsa_lightning.evaluation.table import RobustnessTable
from lsa_lightning.utils.batch import BatchFn, check_samples, move_data_to_device, read_batch, read_samples
from lsa_lightning.utils.checks import flag, function, instance, integer, mapping, number, or_none, refuse, sequence
from lsa_lightning.utils.distributed import gathered, own_share, place, size_of_own_share, together
from lsa_lightning.utils.isolation import preserved_random_state
from lsa_lightning.utils.outputs import LogitsOf, OutputFn
from lsa_lightning.utils.progress import Progress, forward_passes, number_of_batches
from lsa_lightning.utils.random import Purpose, seed_of
from lsa_lightning.utils.renamed import renamed

EXACT = "exact"
"""Name of the row that a :class:`~lsa_lightning.evaluation.PlaneGrid` fills."""

_AT_MOST = "exact at most"


class RobustnessEvaluation:
    """Accuracy under each attack at each radius over a data set; step sizes scale with eps.

    Memory does not grow with the data set. A batch's random numbers, also those of a model that draws some itself,
    depend on the seeds and on the batch's number alone, so an evaluation that was interrupted and started again gives
    the table of one that was not, and several processes that of one. The global random state is afterwards as before.

    Args:
        attacks: attack by name, at least one.
        eps: radii > 0, at least one; the clean column is added. R&G is summed over these.
        training_eps: radius > 0 that the model was trained at: a column in any case, and marked as such; None: none.
        exact: for points in the plane, a row ``exact`` of robust accuracies that no attack can be too weak for: the
            lower bounds, with the upper ones in the table's ``at_most``; None: no such row.
        batch_fn: ``batch -> (x, y)``.
        output_fn: see :class:`~lsa_lightning.utils.outputs.LogitsOf`.
        limit_batches: number of batches >= 1, or None for all.
        seed: seed of the models, and of the attacks that have none of their own.
        progress: whether to show how far it is; None: a bar where the error stream is a terminal, and log lines, see
            :class:`~lsa_lightning.utils.progress.Progress`.

    Raises:
        ValueError: if there is no attack, no radius, a radius <= 0, ``limit_batches`` < 1, or an attack is called
            ``exact`` beside the row of that name.

    Example:
        >>> from lsa_lightning.attacks import FGSM, PGD
        >>> evaluation = RobustnessEvaluation({"fgsm": FGSM(), "pgd": PGD(steps=20)}, eps=[0.1, 0.2])
        >>> batches = [(torch.rand(8, 2), torch.randint(2, (8,)))]
        >>> evaluation.run(torch.nn.Linear(2, 1), batches).eps
        [0.0, 0.1, 0.2]
    """

    @renamed(max_batches="limit_batches")
    def __init__(
        self,
        attacks: Mapping[str, Attack],
        eps: Sequence[float],
        *,
        training_eps: float | None = None,
        exact: PlaneGrid | None = None,
        batch_fn: BatchFn = read_batch,
        output_fn: OutputFn | None = None,
        limit_batches: int | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.attacks = mapping(self, "attacks", attacks, staying)
        self.rg_eps = [0.0, *sorted(set(sequence(self, "eps", eps, number, above=0)))]
        self.training_eps = or_none(number, self, "training_eps", training_eps, above=0)
        self.eps = sorted({*self.rg_eps, *([] if self.training_eps is None else [self.training_eps])})
        self.exact = or_none(instance, self, "exact", exact, PlaneGrid)
        if self.exact is not None and EXACT in self.attacks:
            refuse(self, "attacks", f"called otherwise than {EXACT!r}, the row beside them", list(self.attacks))
        check_same_space(self, "exact", self.exact, self.attacks.values())
        self.batch_fn: BatchFn = function(self, "batch_fn", batch_fn)
        self.output_fn: OutputFn | None = or_none(function, self, "output_fn", output_fn)
        self.limit_batches = or_none(integer, self, "limit_batches", limit_batches, low=1)
        self.seed = integer(self, "seed", seed)
        self.progress = or_none(flag, self, "progress", progress)
        self._grid = {
            (name, column): attack.with_eps(radius)
            for name, attack in self.attacks.items()
            for column, radius in enumerate(self.eps[1:], start=1)
        }

    def run(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        state_file: str | Path | None = None,
        *,
        label: str = "Evaluating",
    ) -> RobustnessTable:
        """Evaluate one model; in a distributed run, all processes must.

        Args:
            model: maps x to logits; runs in eval mode and is left as it was.
            dataloader: any iterable of batches, in a fixed order; they are moved to the model's device. With several
                processes, give each the same one, not a share of it: of P processes, number p takes the batches p,
                p + P, p + 2 P, ...
            state_file: where finished batches are noted, to go on from after an interruption (process p > 0 appends
                ``.rank<p>`` to the name); None: no file.
            label: what its progress is called.

        Returns:
            The table over all processes.

        Raises:
            ValueError: if there is no batch, or the file belongs to another model, evaluation or order of the data.
            RuntimeError: if another process failed.
        """
        instance(self, "model", model, nn.Module)
        with Progress(label, self._steps(dataloader), self.progress) as progress, together():
            own = self._own_sums(model, dataloader, state_file, progress)
        sums: Counter[str] = Counter()
        for counts in gathered(own):
            sums.update(counts)
        return self._table(sums)

    def compare(
        self,
        models: Mapping[str, nn.Module],
        dataloader: Iterable[Any],
        state_folder: str | Path | None = None,
    ) -> dict[str, RobustnessTable]:
        """Evaluate several models on the same data, one after another.

        Args:
            models: model by name.
            dataloader: see :meth:`run`; it is gone through once per model.
            state_folder: folder of one state file per model, ``<name>.jsonl``; None: no files.

        Returns:
            Table by name.

        Raises:
            ValueError: see :meth:`run`; and for an iterator, which the first model would use up.
        """
        if len(models) > 1 and isinstance(dataloader, Iterator):
            refuse(self, "dataloader", "one that can be gone through once per model", dataloader)
        files = {name: None if state_folder is None else Path(state_folder) / f"{name}.jsonl" for name in models}
        return {name: self.run(model, dataloader, files[name], label=name) for name, model in models.items()}

    def _own_sums(
        self, model: nn.Module, dataloader: Iterable[Any], state_file: str | Path | None, progress: Progress
    ) -> Counter[str]:
        """The counts of this process's batches."""
        device = next(model.parameters(), torch.zeros(())).device
        rank, processes = place()
        finished = self.finished_batches(model, state_file, rank)
        logits_of = LogitsOf(model, self.output_fn)
        sums: Counter[str] = Counter()
        for index, batch in own_share(islice(dataloader, self.limit_batches)):
            x, y = read_samples(self.batch_fn, move_data_to_device(batch, device))
            check_samples(x, y)
            fingerprint = digest({"x": x, "y": y})
            answer = partial(answer_of, logits_of, x)
            counts = finished.recall(index, fingerprint, answer)
            if counts is None:
                counts = self._count(logits_of, x, y, index, progress)
                finished.note(index, fingerprint, answer, counts)
            else:
                progress.recall((index // processes + 1) * self._steps_per_batch)
            sums.update(counts)
        return sums

    def finished_batches(self, model: nn.Module, state_file: str | Path | None, rank: int = 0) -> FinishedBatches:
        """What a file says of batches that are finished, of this model and this evaluation."""
        return FinishedBatches(state_file, {**self._describe(), "model": digest(model.state_dict())}, rank)

    def _count(self, model: nn.Module, x: Tensor, y: Tensor, index: int, progress: Progress) -> dict[str, int]:
        """Number of samples of a batch, and of hits: clean, and under each attack at each radius."""
        counts = {"samples": len(x)}
        with preserved_random_state(x.device):
            torch.manual_seed(seed_of(self.seed, Purpose.EVALUATED_MODEL, index))
            counts["clean"] = int(correct(model, x, y).sum())
            progress.advance()
            for (name, column), attack in self._grid.items():
                x_adv = attack.with_stream(index)(model, x, y)
                counts[_key(name, column)] = int(correct(model, x_adv, y).sum())
                progress.advance(forward_passes(attack))
            return counts | self.count_exactly(model, x, y)

    def count_exactly(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, int]:
        """Number of samples of a batch that are right in the whole ball: at least, and at most; none without a grid."""
        if self.exact is None:
            return {}
        low, high = self.exact.radii(model, x, y, self.eps[-1], self.output_fn)
        columns = list(enumerate(self.eps[1:], start=1))
        certain = {_key(EXACT, column): int((low > eps).sum()) for column, eps in columns}
        return certain | {_key(_AT_MOST, column): int((high > eps).sum()) for column, eps in columns}

    def _table(self, sums: Mapping[str, int]) -> RobustnessTable:
        if not sums:
            msg = "expected a dataloader with at least one batch, got an empty one"
            raise ValueError(msg)
        rows = [*self.attacks, *([] if self.exact is None else [EXACT, _AT_MOST])]
        keys = {name: ["clean", *(_key(name, i) for i in range(1, len(self.eps)))] for name in rows}
        accuracy = {name: [100 * sums[key] / sums["samples"] for key in row] for name, row in keys.items()}
        at_most = {} if self.exact is None else {EXACT: accuracy.pop(_AT_MOST)}
        norms = {attack.norm for attack in self.attacks.values()} | (set() if self.exact is None else {self.exact.norm})
        norm = norms.pop() if len(norms) == 1 else None
        return RobustnessTable(self.eps, accuracy, sums["samples"], self.training_eps, self.rg_eps, norm, at_most)

    def _describe(self) -> dict[str, Any]:
        """What the counts of a batch depend on, besides the model."""
        settings = {"attacks": settings_of(self.attacks), "eps": self.eps, "seed": self.seed}
        return settings if self.exact is None else {**settings, EXACT: repr(self.exact)}

    @property
    def _steps_per_batch(self) -> int:
        return 1 + sum(map(forward_passes, self._grid.values()))

    def _steps(self, dataloader: Iterable[Any]) -> int | None:
        batches = size_of_own_share(number_of_batches(dataloader, self.limit_batches))
        return None if batches is None else self._steps_per_batch * batches


@renamed(max_batches="limit_batches")
def evaluate_robustness(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    attacks: Mapping[str, Attack],
    eps: Sequence[float],
    batch_fn: BatchFn = read_batch,
    output_fn: OutputFn | None = None,
    limit_batches: int | None = None,
) -> RobustnessTable:
    """Evaluate one model without a state file: see :class:`RobustnessEvaluation` and its :meth:`run`."""
    evaluation = RobustnessEvaluation(attacks, eps, batch_fn=batch_fn, output_fn=output_fn, limit_batches=limit_batches)
    return evaluation.run(model, dataloader)


def _key(name: str, column: int) -> str:
    return f"{name}/{column}"
