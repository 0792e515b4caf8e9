"""The alarm of catastrophic overfitting, read off what a training step computes anyway, and the gate that it opens.

The warning about layers that the penalty itself has killed is in :mod:`~lsa_lightning.callbacks.collapse_guard`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lsa_lightning.functional import classification_loss, relative_spread
from lsa_lightning.utils.checks import instance, integer, number, or_none
from lsa_lightning.utils.devices import Arriving
from lsa_lightning.utils.distributed import over_processes


@dataclass(frozen=True, eq=False)
class StepSeen:
    r"""What an alarm may look at: tensors that a step has computed anyway.

    Attributes:
        y: labels ``[N]``.
        before: logits where the attack started; None if they are not those of all samples.
        after: logits of the adversarial examples; None likewise.
        clean: clean representation by penalised layer; empty in steps without a penalty.
        move: the attack's way, :math:`\hat x - x^0`; None unless the signal needs the gradient.
        gradient: of the loss that is minimised, with respect to :math:`\hat x`; None likewise.
    """

    y: Tensor
    before: Tensor | None
    after: Tensor | None
    clean: Mapping[str, Tensor]
    move: Tensor | None = None
    gradient: Tensor | None = None


class Signal(ABC):
    """A number that rises when training collapses."""

    name: str
    """What log keys call it."""

    needs_gradient: ClassVar[bool] = False
    """Whether it looks at the gradient at the adversarial examples, which the backward pass then computes too."""

    needs_penalty: ClassVar[bool] = False
    """Whether it looks at layers, and steps without a penalty on some show it none."""

    @abstractmethod
    def __call__(self, seen: StepSeen) -> Tensor | None:
        """A scalar, without a gradient; None if this step shows nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LossFell(Signal):
    r"""The share of samples whose loss is lower at the adversarial example than where the attack started.

    .. math:: \frac1N \sum_n \big[ CE(f(\hat x_n), y_n) < CE(f(x_n + \delta^0_n), y_n) \big]

    The start is x, or a random point beside it. An attack that steps along an honest gradient raises the loss; where
    the loss surface is bent, as before and in catastrophic overfitting of single-step training, its step overshoots.
    Both losses are those of passes that the step makes anyway: the attack's first one, in eval mode, and the one that
    is trained on, in train mode (both in train mode for objectives of two outputs): with BatchNorm or dropout, the
    share also holds what the modes differ by, which does not rise with a collapse.

    Source: the abnormal adversarial examples of AAER, Lin et al. 2024, arXiv 2404.08154.
    """

    name = "loss_fell"

    def __call__(self, seen: StepSeen) -> Tensor | None:
        """The share, in [0, 1]."""
        if seen.before is None or seen.after is None:
            return None
        before, after = (_losses(logits, seen.y) for logits in (seen.before, seen.after))
        return (after < before).float().mean()


class Overshot(Signal):
    r"""The share of samples whose loss falls along the attack's way, where that ends.

    .. math:: \frac1N \sum_n \big[ \langle \nabla_{\hat x_n} J(\hat x_n),\; \hat x_n - x^0_n \rangle < 0 \big]

    :math:`x^0` is where the attack started: x, or a random point beside it. On its way such a sample was at a point of
    larger loss: the one step is too long for the surface. That happens before the loss at the end falls below the one
    at the start (:class:`LossFell`). J is the loss that the step minimises, penalty included. The backward pass, which
    ends at the first weights otherwise, goes on to the inputs.

    Source: the condition of a maximum at the end of the step, as in the local linearity of Andriushchenko & Flammarion
    2020, arXiv 2007.02617; `python -m benchmarks.collapse_alarm` compares it with :class:`LossFell`.
    """

    name = "overshot"
    needs_gradient = True

    def __call__(self, seen: StepSeen) -> Tensor | None:
        """The share, in [0, 1]; not a number where the gradient is not finite, as in a skipped step of float16."""
        if seen.move is None or seen.gradient is None:
            return None
        slopes = (seen.move * seen.gradient).flatten(1).sum(1)
        share = (slopes < 0).float().mean()
        return share.where(slopes.isfinite().all(), torch.nan)


class SpreadLost(Signal):
    r"""One minus the smallest spread of a penalised layer, :math:`1 - \min_l \|\phi_l - \bar\phi_l\| / \|\phi_l\|`.

    It is 1 when a layer is constant over the batch. Steps without a penalty show nothing.
    """

    name = "spread_lost"
    needs_penalty = True

    def __call__(self, seen: StepSeen) -> Tensor | None:
        """In [0, 1]."""
        spreads = [relative_spread(representation.detach()) for representation in seen.clean.values()]
        return 1 - torch.stack(spreads).min() if spreads else None


class CollapseAlarm:
    r"""Rings when its signal rises above its running mean by so many standard deviations, and remembers it for a while.

    .. math:: level_t = 1 \text{ if } s_t > m_{t-1} + \max(k\,\sigma_{t-1}, r), \text{ else } d\, level_{t-1}

    with s the smoothed signal, m and sigma its exponentially weighted mean and standard deviation in the steps before
    in which it did not ring: what is normal is not learned from a collapse, and it rings for as long as that lasts. A
    level that has fallen below 0.01 is 0. A gated regularizer's gamma is multiplied with it: 0 while training is
    healthy.

    The signal of a step is read at the beginning of the next one, so a GPU is not waited for; that of a distributed run
    is the mean over its processes, which all have one level. Logs ``train/alarm_<signal>``, and ``train/alarm_level``.

    Args:
        signal: what it listens to; default :class:`Overshot`.
        deviations: k >= 0.
        rise: the smallest rise r >= 0 that counts, since a healthy signal may stand still at 0.
        decay: d in [0, 1].
        memory: number of steps >= 1 over which mean and deviation forget: weight 1 / memory of a new step.
        smoothing: number of steps >= 1 over which the signal itself is smoothed: few samples fall in one step.
        patience: steps >= 0 at the start in which it only listens.

    Attributes:
        level: in [0, 1].
        rang: number of steps so far in which it rang.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> alarm = CollapseAlarm(patience=2, smoothing=1)
        >>> for value in (0.02, 0.0, 0.01, 0.4, 0.0):
        ...     alarm.hear(value)
        ...     print(alarm.level)
        0.0
        0.0
        0.0
        1.0
        0.99

    Source: the adaptive weight of ELLE-A, Rocamora et al. 2024, arXiv 2401.11618.
    """

    def __init__(
        self,
        signal: Signal | None = None,
        *,
        deviations: float = 2.0,
        rise: float = 0.01,
        decay: float = 0.99,
        memory: int = 100,
        smoothing: int = 5,
        patience: int = 20,
    ) -> None:
        self.signal = or_none(instance, self, "signal", signal, Signal) or Overshot()
        self.deviations = number(self, "deviations", deviations, low=0)
        self.rise = number(self, "rise", rise, low=0)
        self.decay = number(self, "decay", decay, low=0, high=1)
        self.memory = integer(self, "memory", memory, low=1)
        self.smoothing = integer(self, "smoothing", smoothing, low=1)
        self.patience = integer(self, "patience", patience, low=0)
        self.restart()

    def restart(self) -> None:
        """Forget all steps."""
        self.level = 0.0
        self.rang = 0
        self._heard = 0
        self._smooth = 0.0
        self._mean = 0.0
        self._variance = 0.0
        self._coming: Arriving | None = None
        self._noted: tuple[Tensor | None, Tensor | None] = None, None

    def follow(self, start: Tensor, x_adv: Tensor) -> Tensor:
        """What a step is to run on in place of ``x_adv``: itself, or a copy whose gradient is noted, if that is needed.

        Args:
            start: where the attack began.
            x_adv: where it ended, of the same shape.
        """
        if not self.signal.needs_gradient:
            return x_adv
        noted = x_adv.detach().requires_grad_()
        noted.register_hook(partial(self._note, x_adv - start))  # type: ignore[no-untyped-call]
        with torch.enable_grad():  # a step may look at it without gradients first
            return noted.clone()  # or change it in place

    def _note(self, move: Tensor, gradient: Tensor) -> None:
        self._noted = move, gradient

    def see(self, seen: StepSeen) -> Tensor | None:
        """Look at a step; what it shows is heard by :meth:`settle`.

        Returns:
            Its value on the device, the mean over the processes that it shows something; None if it shows none.
        """
        (move, gradient), self._noted = self._noted, (None, None)
        seen = replace(seen, move=move, gradient=gradient)
        with torch.no_grad():
            value = over_processes(self.signal(seen), seen.y.device)
        self._coming = None if value is None else Arriving(value.flatten())
        return value

    def settle(self) -> None:
        """Hear what the latest step showed."""
        if self._coming is not None:
            (value,), self._coming = self._coming.read(), None
            self.hear(value)

    def hear(self, value: float) -> None:
        """Take the signal's value of one step; one that is not finite changes nothing."""
        if not math.isfinite(value):
            return
        self._heard += 1
        self._smooth += (value - self._smooth) / min(self._heard, self.smoothing)  # the plain mean at first
        limit = self._mean + max(self.deviations * math.sqrt(self._variance), self.rise)
        if self._heard > self.patience and self._smooth > limit:
            self.level, self.rang = 1.0, self.rang + 1
            return
        self.level = self.decay * self.level if self.level >= _LOWEST else 0.0
        self._remember()

    def _remember(self) -> None:
        """Learn what is normal."""
        weight = 1 / min(self._heard - self.rang, self.memory)
        difference = self._smooth - self._mean
        self._mean += weight * difference
        self._variance = (1 - weight) * (self._variance + weight * difference**2)

    def state_dict(self) -> dict[str, float]:
        """What it has heard, as plain numbers."""
        self.settle()
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue with the checkpoint's."""
        vars(self).update({name: state[name] for name in _STATE})

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coming": None, "_noted": (None, None)}

    def __repr__(self) -> str:
        options = ("signal", "deviations", "rise", "decay", "memory", "smoothing", "patience")
        return f"CollapseAlarm({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"


_STATE = ("level", "rang", "_heard", "_smooth", "_mean", "_variance")
_LOWEST = 0.01


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    return classification_loss(logits.detach(), y, reduction="none")
