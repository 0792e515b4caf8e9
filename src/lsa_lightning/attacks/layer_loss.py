"""A loss that attacks increase to move what layers output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lsa_lightning.attacks.attacked import AttackedModel, watched
from lsa_lightning.attacks.base import Model
from lsa_lightning.attacks.input_space import _ModelOfPixels
from lsa_lightning.attacks.losses import WatchingLoss, cross_entropy
from lsa_lightning.layers.calls import CallSite
from lsa_lightning.layers.outputs import check_softmax_once
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.layers.resolve import LayerSpec, checked_layers, locate_layers
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.regularizers import LayerwiseRegularizer
from lsa_lightning.utils.batch import samples_of_batch
from lsa_lightning.utils.checks import instance, number, or_none
from lsa_lightning.utils.outputs import FirstCall, LogitsOf, OutputFn, read_logits


class LayerLoss(WatchingLoss):
    r"""What AT-LR penalises, as a loss to increase, with or without the cross-entropy.

    .. math:: w\, CE(f(\hat x), y) + \sum_l \gamma_l\, CM(\phi_l(x), \phi_l(\hat x))

    with each sample's own values. It is a ``loss_fn`` of FGSM, FFGSM, N-FGSM, PGD and APGD. The measure has no gradient
    at x itself: a start away from x is needed for it to count in the first step.

    The layers are those of the module that is attacked, so a model that is a plain function is refused. With a measure
    that looks at the whole batch (``sample_by_sample`` is False), what else is still attacked changes the values.

    Args:
        regularizer: gamma and measure; default gamma 1 and the relative error. Its schedule is at epoch 0.
        layers: see :func:`~lsa_lightning.layers.resolve.resolve_layers`; None: the learnable layers after their
            activation. Those that a gamma mapping does not name do not count.
        cross_entropy: w >= 0; 0: labels are not looked at.

    Raises:
        ValueError: if an argument is of another kind; when attacked, if the model is no module, a layer does not
            exist, or none has a gamma.

    Example:
        >>> from lsa_lightning.attacks import PGD
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ELU(), nn.Linear(8, 3))
        >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 2, 0])
        >>> PGD(eps=0.1, loss_fn=LayerLoss(LayerwiseRegularizer(gamma=0.5), layers=["1"]))(net, x, y).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        regularizer: LayerwiseRegularizer | None = None,
        *,
        layers: LayerSpec | str = None,
        cross_entropy: float = 1.0,
    ) -> None:
        given = or_none(instance, self, "regularizer", regularizer, LayerwiseRegularizer)
        self.regularizer = given or LayerwiseRegularizer(gamma=1.0)
        self.layers = checked_layers(self, layers)
        self.cross_entropy = number(self, "cross_entropy", cross_entropy, low=0)

    @property
    def needs_classes(self) -> bool:
        """If the cross-entropy counts."""
        return self.cross_entropy > 0

    def watch(self, model: Model, x: Tensor) -> Model:
        """``model`` with the penalty of each sample in a last column of its output, ``[N, C + 1]``."""
        behind = ModuleBehind.of(model, x)
        module = behind.module
        layers, sites = locate_layers(module, self.layers, behind.x)
        names = [layer.name for layer in layers]
        gamma = self.regularizer.weights(names)
        if not gamma:
            msg = f"expected a gamma for one of the layers {names}, got {self.regularizer!r}"
            raise ValueError(msg)
        given = self.regularizer.gamma
        if isinstance(given, Mapping) and (
            unknown := [*{*given} - {*names} - {name.partition("#")[0] for name in names}]
        ):
            msg = f"expected gamma for some of the layers {names}, got one for {sorted(unknown)} too"
            raise ValueError(msg)
        check_softmax_once(module, gamma, self.regularizer.measure)
        return _WithPenalty(model, behind, {name: sites[name] for name in gamma}, gamma, self.regularizer.measure, x)

    def logits(self, output: Tensor) -> Tensor:
        """All columns but the last."""
        return output[:, :-1]

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """The losses, ``[N]``."""
        penalty = output[:, -1]
        return penalty + self.cross_entropy * cross_entropy(output[:, :-1], labels) if self.needs_classes else penalty

    def __repr__(self) -> str:
        return f"LayerLoss({self.regularizer!r}, layers={self.layers}, cross_entropy={self.cross_entropy:g})"


class _WithPenalty:
    """Logits, and how far a few layers are from where they are for the clean inputs."""

    def __init__(
        self,
        model: Model,
        behind: ModuleBehind,
        sites: Mapping[str, CallSite],
        gamma: Mapping[str, float],
        measure: ComparisonMeasure,
        x: Tensor,
    ) -> None:
        self.model, self.behind, self.sites, self.gamma, self.measure = model, behind, sites, gamma, measure
        self.samples = samples_of_batch()
        with torch.no_grad():
            self.clean = self._pass(x)[1]

    def __call__(self, x: Tensor) -> Tensor:
        logits, moved = self._pass(x)
        rows = self._rows()
        terms = [gamma * self.measure(self.clean[name][rows], moved[name]) for name, gamma in self.gamma.items()]
        return torch.cat([logits.reshape(len(x), -1), torch.stack(terms).sum(0)[:, None]], dim=1)

    def _pass(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        module, read = self.behind.module, self.behind.read
        with watched(), LayerProbe(module, self.sites, len(x), sites=self.sites, read=read) as probe:
            logits = self.model(x)
        return logits, probe.representations

    def _rows(self) -> Tensor | slice:
        """Which of the clean samples the model is given now."""
        given = samples_of_batch()
        if given is None or given is self.samples:
            return slice(None)
        return given[0] if self.samples is None else torch.searchsorted(self.samples[0], given[0])


@dataclass(frozen=True, eq=False)
class ModuleBehind:
    """The user's own module, whose layers have the names that the user knows, behind what an attack is given.

    Attributes:
        module: the module.
        read: reads the logits out of what it returns.
        x: what it is given for an input of the attack.
    """

    module: nn.Module
    read: OutputFn
    x: Tensor

    @classmethod
    def of(cls, model: Model, x: Tensor) -> Self:
        """What is behind ``model``, for its input ``x``.

        Raises:
            ValueError: if it is a plain function.
        """
        reads: list[OutputFn] = [read_logits]
        while isinstance(model, AttackedModel | FirstCall | LogitsOf | _ModelOfPixels):
            if isinstance(model, LogitsOf) and model.output_fn is not None:
                reads.insert(0, model.output_fn)
            x = model.inputs(x) if isinstance(model, _ModelOfPixels) else x
            model = model.model
        if not isinstance(model, nn.Module):
            msg = f"expected a model that is an nn.Module, whose layers can be watched, got {model!r}"
            raise ValueError(msg)
        return cls(model, partial(_through, reads), x)


def _through(reads: Sequence[OutputFn], output: Any) -> Tensor:
    for read in reads:
        output = read(output)
    logits: Tensor = output
    return logits
