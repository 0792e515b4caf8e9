"""Single samples before and after an attack: what a model takes them for, and how far its layers are moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.evaluation.classes import ClassTable
from lsa_lightning.functional import count_classes, predicted_labels
from lsa_lightning.layers.pairs import BatchComparison, comparison
from lsa_lightning.layers.resolve import LayerSpec, locate_layers
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.utils.batch import move_data_to_device, read_batch, read_samples
from lsa_lightning.utils.files import replacing
from lsa_lightning.utils.isolation import evaluating
from lsa_lightning.utils.outputs import read_logits

FEW = 8
"""Images that a figure shows."""

POINTS = 200
"""Points of the plane that a figure shows."""


class Samples(NamedTuple):
    """Samples on the CPU."""

    place: Tensor
    """Their place in the data set, int64 ``[N]``."""
    x: Tensor
    """Inputs ``[N, ...]``."""
    x_adv: Tensor
    """Their adversarial partners ``[N, ...]``."""
    y: Tensor
    """Labels, int64 ``[N]``."""
    clean: Tensor
    """Predicted classes of ``x``, int64 ``[N]``."""
    adversarial: Tensor
    """Predicted classes of ``x_adv``, int64 ``[N]``."""
    error: Tensor
    """The measure between the two, mean over the layers, ``[N]``; NaN where it was not asked for."""

    def rows(self, which: Tensor | slice) -> Samples:
        """Some of them."""
        return Samples(*(part[which] for part in self))

    def with_others(self, others: Samples) -> Samples:
        """These, and others after them."""
        return Samples(*map(torch.cat, zip(self, others, strict=True)))


@dataclass(frozen=True, eq=False)
class Observed:
    """What :func:`observe` found.

    Attributes:
        attack: the attack.
        classes: confusion of all samples.
        first: the first samples of the data set.
        farthest: those whose layers are moved farthest, the farthest one first; None where that was not asked for.
        measure: name of the measure of how far.
    """

    attack: Attack
    classes: ClassTable
    first: Samples
    farthest: Samples | None
    measure: str = ""

    def save_examples(self, path: Path, number: int) -> None:
        """Write the first examples with safetensors: every part of :class:`Samples` by its name, and what attacked."""
        from safetensors.torch import save_file

        parts = {name: part.contiguous() for name, part in self.first.rows(slice(number))._asdict().items()}
        if self.farthest is None:
            del parts["error"]
        with replacing(path) as new:
            save_file(parts, new, metadata={"attack": repr(self.attack)})


class LayerErrors:
    """The measure of each sample, mean over the layers.

    Args:
        model: the network.
        layers: see :func:`~lsa_lightning.layers.resolve.resolve_layers`.
        measure: compares two representations of a layer.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec, measure: ComparisonMeasure) -> None:
        self.model = model
        self.layers = layers
        self.measure = measure
        self._compared: BatchComparison | None = None

    def __call__(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """``[N]``."""
        with evaluating(self.model), torch.no_grad():
            if self._compared is None:
                found, sites = locate_layers(self.model, self.layers, x)
                self._compared = comparison(
                    self.model, {each.name: sites[each.name] for each in found}, self.measure, x, x_adv
                )
            return self._compared.errors(x, x_adv).float().mean(dim=1)


def observe(
    model: nn.Module,
    dataloader: Iterable[Any],
    name: str,
    attack: Attack,
    *,
    samples: int,
    keep: int = POINTS,
    errors_of: LayerErrors | None = None,
) -> Observed:
    """Look at the first samples of a data set one by one.

    A batch's random numbers depend on the attack's seed and the batch's number alone. Only the inputs of the first
    ones, and of those that the layers are moved farthest by, are kept.

    Args:
        model: maps x to logits; runs in eval mode and is left as it was.
        dataloader: batches in a fixed order; they are moved to the model's device.
        name: what the attack is called.
        attack: the attack.
        samples: number of samples >= 1.
        keep: how many of the first samples are kept.
        errors_of: measures how far layers are moved; None: that is left out.

    Returns:
        What was seen.

    Raises:
        ValueError: if there is no batch.
    """
    device = next(model.parameters(), torch.zeros(())).device
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    first: Samples | None = None
    farthest: Samples | None = None
    done, classes = 0, 2
    for number, batch in enumerate(dataloader):
        x, y = (part[: samples - done] for part in read_samples(read_batch, move_data_to_device(batch, device)))
        x_adv = attack.with_stream(number)(model, x, y)
        (clean, classes), (adversarial, _) = _predicted(model, x), _predicted(model, x_adv)
        error = torch.full((len(x),), torch.nan) if errors_of is None else errors_of(x, x_adv)
        place = torch.arange(done, done + len(x))
        own = Samples(*(part.cpu() for part in (place, x, x_adv, y.flatten().long(), clean, adversarial, error)))
        seen.append((own.y, own.clean, own.adversarial))
        first = own.rows(slice(keep)) if first is None else first.with_others(own.rows(slice(max(0, keep - done))))
        if errors_of is not None:
            several = own if farthest is None else farthest.with_others(own)
            farthest = several.rows(several.error.argsort(descending=True, stable=True)[:FEW])
        done += len(x)
        if done >= samples:
            break
    if first is None:
        msg = "expected a dataloader with at least one batch, got an empty one"
        raise ValueError(msg)
    y, clean, adversarial = (torch.cat(part) for part in zip(*seen, strict=True))
    table = ClassTable.of(name, f"{name}, {radius_in_words([attack])}", y, clean, adversarial, classes)
    return Observed(attack, table, first, farthest, "" if errors_of is None else errors_of.measure.name)


def radius_in_words(attacks: Iterable[Attack]) -> str:
    """The radius of all attacks with its norm; nothing where they have different ones.

    Example:
        >>> from lsa_lightning.attacks import FGSM, PGD
        >>> radius_in_words([FGSM(0.1), PGD(0.1)]), radius_in_words([FGSM(0.1), PGD(0.2)])
        ('eps 0.1 (Linf)', '')
    """
    found = {f"eps {attack.eps:g} ({attack.norm})" for attack in attacks}
    return found.pop() if len(found) == 1 else ""


def _predicted(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Predicted classes, and how many there are."""
    with evaluating(model), torch.no_grad():
        logits = read_logits(model(x.clone()))  # a copy: some models normalise what they are given in place
    return predicted_labels(logits), count_classes(logits)
