"""Layer Sustainability Analysis (LSA): which layers a perturbation moves most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lsa_lightning.attacks.base import Attack
from lsa_lightning.layers.pairs import BatchComparison, comparison
from lsa_lightning.layers.profile import LayerProfile
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.layers.resolve import Layer, LayerSpec, checked_layers, locate_layers
from lsa_lightning.measures import ComparisonMeasure, RelativeError
from lsa_lightning.utils.batch import BatchFn, move_data_to_device, read_batch, read_samples
from lsa_lightning.utils.checks import flag, function, instance, integer, or_none, refuse
from lsa_lightning.utils.describe import without_addresses
from lsa_lightning.utils.distributed import place, size_of_own_share, together
from lsa_lightning.utils.isolation import evaluating, preserved_random_state
from lsa_lightning.utils.outputs import OutputFn, read_logits
from lsa_lightning.utils.precision import widest_float
from lsa_lightning.utils.progress import Progress, forward_passes, number_of_batches
from lsa_lightning.utils.random import Purpose, seed_of
from lsa_lightning.utils.renamed import renamed

AttackLike = Attack | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``(model, x, y) -> x_adv``."""


class TooFewSamplesError(ValueError):
    """All batches are smaller than the measure needs them."""


class LayerSustainabilityAnalysis:
    """LSA of a network: streams over batches, keeps only sums, leaves the network and the random state as they were.

    Args:
        model: maps x to logits; runs in eval mode.
        layers: which layers, see :func:`~lsa_lightning.layers.resolve.resolve_layers`.
        measure: the comparison measure; default :class:`~lsa_lightning.measures.RelativeError`.
        batch_fn: ``batch -> (x, y)``; default :func:`~lsa_lightning.utils.batch.read_batch`.
        output_fn: ``output -> logits``, for the layers ``logits`` and ``probabilities`` of a model that returns
            something else than :func:`~lsa_lightning.utils.outputs.read_logits` reads.

    Raises:
        ValueError: if an argument is of another kind.

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
        *,
        layers: LayerSpec = None,
        measure: ComparisonMeasure | None = None,
        batch_fn: BatchFn | None = None,
        output_fn: OutputFn | None = None,
    ) -> None:
        self.model = instance(self, "model", model, nn.Module)
        self.layers = checked_layers(self, layers)
        self.measure = or_none(instance, self, "measure", measure, ComparisonMeasure) or RelativeError()
        self.batch_fn: BatchFn = or_none(function, self, "batch_fn", batch_fn) or read_batch
        given = or_none(function, self, "output_fn", output_fn)
        self._read = read_logits if given is None else lambda output: read_logits(given(output))

    @renamed(max_batches="limit_batches")
    def run(
        self,
        dataloader: Iterable[Any],
        attack: AttackLike,
        *,
        limit_batches: int | None = None,
        spread: bool = False,
        progress: Progress | bool | None = None,
    ) -> SustainabilityReport:
        """Perturb each batch and compare each layer's two representations, sample by sample.

        In a distributed run each process passes its own batches, and all get the report over all of them; or, with
        ``spread``, all pass the same ones, and get the report that one process alone would get.

        Args:
            dataloader: any iterable of batches; they are moved to the model's device.
            attack: ``(model, x, y) -> x_adv``.
            limit_batches: number of batches >= 1, or None for all.
            spread: whether, of P processes, number p takes the batches p, p + P, p + 2 P, ... of those that all pass
                alike. A batch's random numbers depend then on torch's initial seed and the batch's number alone.
            progress: one that each batch advances by the attack's forward passes; or whether to show one, None: a bar
                where the error stream is a terminal, and log lines, see
                :class:`~lsa_lightning.utils.progress.Progress`.

        Returns:
            The report.

        Raises:
            ValueError: for an empty dataloader, batches that cannot be read or hold NaN, unknown or silent layers, and
                layers whose first dimension is not the samples.
            RuntimeError: if another process failed.
        """
        function(self, "attack", attack, what="an attack (model, x, y) -> x_adv")
        limit_batches = or_none(integer, self, "limit_batches", limit_batches, low=1)
        if not isinstance(dataloader, Iterable) or isinstance(dataloader, Tensor):
            refuse(self, "dataloader", "an iterable of batches", dataloader)
        number = number_of_batches(dataloader, limit_batches)
        shown = _shown(progress, size_of_own_share(number) if flag(self, "spread", spread) else number, attack)
        with preserved_random_state(_device_of(self.model)), shown as steps, together():
            # Inside: a DataLoader draws a random number when it is begun.
            turns = (_in_turn if spread else _all)(islice(dataloader, limit_batches), attack)
            layers, profile = self._profile(turns, steps)
        return self.report(layers, profile, attack)

    def report(self, layers: Sequence[Layer], profile: LayerProfile, attack: AttackLike) -> SustainabilityReport:
        """What the sums over all batches say of these layers, under this attack."""
        return SustainabilityReport(
            [layer.name for layer in layers],
            [layer.learnable for layer in layers],
            **{key: _to_cpu(value) for key, value in profile.compute()._asdict().items()},
            attack=repr(attack) if isinstance(attack, Attack) else _name_of(attack),
            measure=self.measure.name,
        )

    def _profile(self, turns: Iterable[_Turn], steps: Progress) -> tuple[list[Layer], LayerProfile]:
        """The layers, and the sums over the batches."""
        layers: list[Layer] = []
        profile: LayerProfile | None = None
        compared: BatchComparison | None = None
        least, left_out = self.measure.least_samples, 0
        for batch, attack in turns:
            x, y = self._read_batch(batch)
            if len(x) < least:
                left_out += len(x)
                continue
            # A function may write into what it is given.
            x_adv = None if attack is None else attack(self.model, x if isinstance(attack, Attack) else x.clone(), y)
            with evaluating(self.model), torch.no_grad():
                if profile is None:
                    layers, sites = locate_layers(self.model, self.layers, x)
                    named = {layer.name: sites[layer.name] for layer in layers}
                    profile = _profile_on(x.device, list(named))
                if x_adv is not None:
                    compared = compared or comparison(self.model, named, self.measure, x, x_adv, self._read)
                    profile.update(compared.errors(x, x_adv))
                    steps.advance(forward_passes(attack))
        if left_out:
            rank_zero_warn(f"{self.measure!r} needs {least} samples in a batch: {left_out} in smaller ones left out")
        if profile is None:
            enough = f"{least} samples in a batch, got fewer" if left_out else "at least one batch, got an empty one"
            msg = f"expected a dataloader with {enough}"
            raise TooFewSamplesError(msg) if left_out else ValueError(msg)
        return layers, profile

    def _read_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = read_samples(self.batch_fn, move_data_to_device(batch, _device_of(self.model)))
        if x.ndim == 0 or len(x) == 0:
            msg = f"expected batches of at least one sample [N, ...], got inputs {tuple(x.shape)}"
            raise ValueError(msg)
        return x, y


_Turn: TypeAlias = tuple[Any, AttackLike | None]
"""A batch, and what perturbs it; None: it only shows which layers run, since it is another process's."""


def _all(batches: Iterable[Any], attack: AttackLike) -> Iterator[_Turn]:
    """Every batch, with an attack that draws one batch's random numbers after the other's."""
    return ((batch, attack) for batch in batches)


def _in_turn(batches: Iterable[Any], attack: AttackLike) -> Iterator[_Turn]:
    """This process's share of the batches, with random numbers of their own; the first batch comes to all."""
    seed, (rank, processes) = torch.initial_seed(), place()
    for index, batch in enumerate(batches):
        own = index % processes == rank
        if own or index == 0:
            torch.manual_seed(seed_of(seed, Purpose.ANALYSED_MODEL, index))
            streamed = attack.with_stream(index) if isinstance(attack, Attack) else attack
            yield batch, streamed if own else None


def _shown(
    progress: Progress | bool | None, batches: int | None, attack: AttackLike
) -> AbstractContextManager[Progress]:
    """The caller's own progress, which it shows itself, or a new one."""
    if isinstance(progress, Progress):
        return nullcontext(progress)
    return Progress("Analysing", None if batches is None else forward_passes(attack) * batches, progress)


def _profile_on(device: torch.device, layers: list[str]) -> LayerProfile:
    """A profile that keeps its sums on ``device`` if that has float64, else on the CPU."""
    profile = LayerProfile(layers)
    return profile.to(device) if widest_float(device) is torch.float64 else profile


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _name_of(attack: AttackLike) -> str:
    return getattr(attack, "__name__", None) or without_addresses(repr(attack))


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
