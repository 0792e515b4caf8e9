"""What all attacks share: checks, the state that they leave untouched, random starts, the gradient."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from lsa_lightning.attacks.attacked import AttackedModel
from lsa_lightning.attacks.balls import Ball, Bounds, outermost
from lsa_lightning.attacks.checks import Checks
from lsa_lightning.attacks.gradients import input_gradient
from lsa_lightning.attacks.losses import LossFn, WatchingLoss, needs_classes, own_losses
from lsa_lightning.attacks.threat import ThreatModel
from lsa_lightning.functional import (
    check_classes,
    check_label_range,
    classification_loss,
    count_classes,
    predicted_labels,
)
from lsa_lightning.utils.batch import check_samples
from lsa_lightning.utils.checks import function, instance, integer, number, or_none, refuse
from lsa_lightning.utils.isolation import frozen, lent
from lsa_lightning.utils.outputs import check_no_probabilities
from lsa_lightning.utils.random import Purpose, own_generator

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Maps inputs ``[N, ...]`` to logits: ``[N]`` or ``[N, 1]`` (binary), or ``[N, C]``. Usually an ``nn.Module``.

What an attack is called with may also return them as :func:`~lsa_lightning.utils.outputs.read_logits` reads them.
"""


_CPU = torch.device("cpu")


class Attack(ABC):
    """Perturbs inputs as its :class:`~lsa_lightning.attacks.ThreatModel` allows. Subclasses write :meth:`perturb`.

    The model runs in eval mode and only input gradients are taken; modes, parameters' gradients, buffers and the global
    random state are afterwards as before, also after an exception. Random numbers come from a generator of the attack's
    own, made at the first call from ``seed`` or else from torch's initial seed, so ``seed_everything`` governs them.

    Args:
        eps: radius >= 0 in units of the input.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None for no bounds.
        seed: seed of the attack's generator, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    loss_fn: LossFn | None = None
    """A loss of one's own that it increases."""

    def __init__(self, eps: float, *, norm: str = "Linf", bounds: Bounds = (0.0, 1.0), seed: int | None = None) -> None:
        self.threat = ThreatModel(norm, eps, bounds)
        self.seed = or_none(integer, self, "seed", seed)
        self._stream: int | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._checks = Checks()

    @property
    def norm(self) -> str:
        """Name of the threat model's norm."""
        return self.threat.norm

    @property
    def eps(self) -> float:
        """The threat model's radius."""
        return self.threat.eps

    @property
    def bounds(self) -> Bounds:
        """Smallest and largest valid input value, or None."""
        return self.threat.bounds

    @property
    def reach(self) -> float:
        """How far from x the result may be: ``eps``; more for some attacks that are there to train with alone."""
        return self.eps

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Perturb ``x``.

        Args:
            model: see :data:`Model`.
            x: floating inputs ``[N, ...]``, finite and inside the bounds, but for the rounding of what they come from.
            y: labels ``[N]``; integers, or floats 0/1 for a binary model.

        Returns:
            Detached tensor of the shape, dtype, device and memory format of ``x``, within :attr:`reach` of it and
            inside the bounds, or as far outside by rounding as ``x`` is.

        Raises:
            ValueError: if inputs, labels or the model's output are not as expected.
        """
        function(self, "model", model, what="a model that maps x to logits")
        self._checks.begin(model, x.device if isinstance(x, Tensor) else _CPU)
        self._check_input(x, y)
        # Under trainer.validate and test everything here is an inference tensor, which autograd refuses: hence clones.
        with torch.inference_mode(False), torch.enable_grad(), lent(model, x.device), frozen(model) as thaw:
            x, y = x.detach().clone(), y.detach().clone()
            attacked = AttackedModel(model, self._checks, thaw, partial(self._check_first_output, y))
            seen = self.loss_fn.watch(attacked, x) if isinstance(self.loss_fn, WatchingLoss) else attacked
            x_adv = _in_format_of(x, self.perturb(seen, x, y, self.threat.ball(x)).detach())
        self._checks.numbers(torch.stack(x_adv.aminmax()), _check_perturbed)
        self._checks.passed(model)
        return x_adv

    @property
    def min_classes(self) -> int:
        """Fewest classes that the model must tell apart; one logit tells two."""
        return 2

    @property
    def needs_classes(self) -> bool:
        """Whether outputs must be scores of classes, and labels classes."""
        return True

    def check_output(self, logits: Tensor, y: Tensor) -> None:
        """Raise a ValueError unless ``logits`` are scores of classes, enough of them, and ``y`` are classes."""
        if not self.needs_classes:
            _check_rows(logits, len(y))
            return
        check_classes(logits, y)
        if count_classes(logits) < self.min_classes:
            msg = f"expected at least {self.min_classes} classes for {self!r}, got logits of shape {(*logits.shape,)}"
            raise ValueError(msg)

    def standing(self, output: Tensor, y: Tensor) -> Tensor:
        """Which samples are classified correctly, by what the model that :meth:`perturb` is given returned, ``[N]``."""
        logits = self.loss_fn.logits(output) if isinstance(self.loss_fn, WatchingLoss) else output
        return predicted_labels(logits) == y.flatten()

    @abstractmethod
    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """The perturbed inputs, inside ``ball``; called with gradients on and the model in eval mode."""

    def with_eps(self, eps: float) -> Self:
        """A copy with another ``eps``, whose step size scales with it; its generator starts afresh."""
        other = copy.copy(self)
        other.threat = self.threat.with_eps(eps)
        other._generators = {}
        return other

    def scaled(self, factor: float) -> Attack:
        """This attack with ``factor`` (>= 0) times its radius and step size.

        Not a copy: it draws from this one's generator, and what it remembers of a batch this one remembers.
        """
        return _ScaledAttack(self, factor)

    @contextmanager
    def _scaling(self, factor: float) -> Iterator[None]:
        """Inside, this very object has ``factor`` times its radius and step size."""
        before, scaled = vars(self).copy(), vars(self.with_eps(factor * self.eps))
        changed = [name for name in before if scaled.get(name) is not before[name] and name != "_generators"]
        vars(self).update({name: scaled[name] for name in changed})
        try:
            yield
        finally:
            vars(self).update({name: before[name] for name in changed})

    def restart(self) -> None:
        """Draw the random numbers from the beginning again."""
        self._checks.settle()
        self._generators.clear()

    def with_stream(self, stream: int) -> Self:
        """A copy whose random numbers depend on the seed and ``stream`` >= 0, not on the rank or on earlier calls."""
        other = copy.copy(self)
        other._stream = stream
        other._generators = {}
        return other

    def generator(self, device: torch.device) -> torch.Generator:
        """The attack's own generator on ``device``; the ranks of a distributed run draw different numbers."""
        if device not in self._generators:
            key = (Purpose.ATTACK, _rank()) if self._stream is None else (Purpose.ATTACK_STREAM, self._stream)
            self._generators[device] = own_generator(self.seed, *key, device=device)
        return self._generators[device]

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the generators, by device; raises a ValueError if an earlier batch was wrong."""
        self._checks.settle()
        return {str(device): generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the state that :meth:`state_dict` gave; devices that do not exist here are left out."""
        for name, generator_state in state.items():
            device = torch.device(name)
            if (device.index or 0) < torch.get_device_module(device).device_count():
                self.generator(device).set_state(generator_state.cpu())

    def _check_first_output(self, y: Tensor, model: Model, x: Tensor, logits: Tensor) -> None:
        if self._checks.at_once:
            self.check_output(logits, y)
            if self.needs_classes:
                check_no_probabilities(model, x, logits)
            return
        self._checks.numbers(torch.stack(logits.detach().aminmax()), _check_logits)
        if self.needs_classes:  # not left to the loss: a binary one takes a label of 2
            self._checks.numbers(torch.stack(y.aminmax()), partial(check_label_range, logits.shape))

    def _check_input(self, x: Tensor, y: Tensor) -> None:
        instance(self, "x", x, Tensor)
        instance(self, "y", y, Tensor)
        check_samples(x, y)
        test = partial(self._check_values, x if self._checks.at_once else None, x.dtype)
        self._checks.numbers(torch.stack(x.detach().aminmax()), test)  # NaN propagates into both

    def _check_values(self, x: Tensor | None, dtype: torch.dtype, extremes: list[float]) -> None:
        low, high = extremes
        if not (math.isfinite(low) and math.isfinite(high)):
            count = "" if x is None else f"{int((~x.isfinite()).sum())} "
            msg = f"expected finite inputs, got {count}values that are NaN or infinite"
            raise ValueError(msg)
        least, most = (-math.inf, math.inf) if self.bounds is None else outermost(self.bounds, dtype)
        if low < least or high > most:
            msg = (
                f"expected inputs inside bounds={self.bounds}, got values in [{low:.4g}, {high:.4g}]; give the attack "
                "the bounds of your data (None: no bounds), or, if batches are normalised, attack in their "
                "space: InputSpace(mean, std)(attack), or input_space=(mean, std) of the callbacks"
            )
            raise ValueError(msg)

    def __getstate__(self) -> dict[str, Any]:
        # Generators do not pickle (spawned processes, deep copies); state_dict carries their state.
        return {**self.__dict__, "_generators": {}}

    def __repr__(self) -> str:
        options: dict[str, Any] = {}
        for name, value in vars(self).items():
            threat = {"norm": self.norm, "bounds": self.bounds, "eps": self.eps}
            options |= threat if name == "threat" else {name: value}
        shown = {k: v for k, v in options.items() if not k.startswith("_") and v is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={_short(v)}' for k, v in shown.items())})"


class _ScaledAttack(Attack):
    """An attack at ``factor`` times its radius, see :meth:`Attack.scaled`."""

    def __init__(self, attack: Attack, factor: float) -> None:
        super().__init__(factor * attack.eps, norm=attack.norm, bounds=attack.bounds, seed=attack.seed)
        self.attack = attack
        self.factor = factor

    @property
    def min_classes(self) -> int:
        return self.attack.min_classes

    @property
    def reach(self) -> float:
        return self.factor * self.attack.reach

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        with self.attack._scaling(self.factor):
            return self.attack(model, x, y)

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        with self.attack._scaling(self.factor):
            return self.attack.perturb(model, x, y, ball)


class GradientAttack(Attack):
    """An attack that steps along the gradient of a loss with respect to the input.

    Args:
        eps: see :class:`Attack`.
        alpha: step size > 0, or None for the attack's default multiple of ``eps``.
        norm: see :class:`Attack`.
        bounds: see :class:`Attack`.
        seed: see :class:`Attack`.
        loss_fn: ``(logits, y) -> [N]``, what it increases; None: the cross-entropy. Outputs and labels may then be of
            any shape ``[N, ...]``.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        eps: float,
        alpha: float | None = None,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        self.loss_fn: LossFn | None = or_none(function, self, "loss_fn", loss_fn)
        given = or_none(number, self, "alpha", alpha, above=0)
        self.alpha = self._default_alpha() if given is None else given

    @property
    def needs_classes(self) -> bool:
        """Not for a loss of one's own, unless it says so."""
        return needs_classes(self.loss_fn)

    @abstractmethod
    def _default_alpha(self) -> float:
        """Step size for the current ``eps``."""

    def with_eps(self, eps: float) -> Self:
        """A copy with another ``eps``; the step size scales with it (from eps = 0 it starts at the default)."""
        other = super().with_eps(eps)
        other.alpha = self.alpha * eps / self.eps if self.eps > 0 else other._default_alpha()
        return other

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the attack increases, summed so that a sample's gradient ignores the batch size."""
        if self.loss_fn is not None:
            return own_losses(self.loss_fn, logits, y).sum()
        return classification_loss(logits, y, reduction="sum")

    def gradient(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of :meth:`loss` with respect to ``x``; parameters' ``.grad`` stay as they are.

        Raises:
            ValueError: if the output does not depend on the input through differentiable operations.
        """
        return forward_and_gradient(model, x, lambda logits: self.loss(logits, y))[2]


def staying(owner: object, name: str, value: Any, **options: Any) -> Attack:
    """A check of :mod:`~lsa_lightning.utils.checks`: an attack to evaluate with, which stays within its ``eps``."""
    attack = instance(owner, name, value, Attack, **options)
    if attack.reach > attack.eps:
        what = f"an attack that stays within eps (this one reaches {attack.reach:.4g}: train with it)"
        refuse(owner, name, what, value)
    return attack


def forward_and_gradient(model: Model, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One pass forward and one back; parameters' ``.grad`` stay as they are.

    Args:
        model: see :data:`Model`.
        x: inputs ``[N, ...]``.
        loss: maps logits to losses, a scalar or ``[N]``, which are summed.

    Returns:
        Logits and losses, both detached, and the gradient of the sum with respect to ``x``, which float16 models too
        give in float32 (:mod:`~lsa_lightning.attacks.gradients`).

    Raises:
        ValueError: if the output does not depend on the input through differentiable operations.
    """
    logits, found = forward_and_gradients(model, x, [loss])
    return logits, *next(found)


def forward_and_gradients(
    model: Model, x: Tensor, losses: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor]]]:
    """One pass forward and one back per loss, each when it is asked for; see :func:`forward_and_gradient`."""
    x = x.detach().requires_grad_()
    logits = model(x)
    pairs = (_checked(input_gradient(logits, x, loss, keep=loss is not losses[-1])) for loss in losses)
    return logits.detach(), pairs


def _checked(found: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    losses, gradient = found
    if gradient is None:
        msg = (
            "expected a model that is differentiable with respect to its input, got an output without a gradient: "
            "freeze layers by requires_grad_(False), rather than run them under torch.no_grad()"
        )
        raise ValueError(msg)
    return losses, gradient


def _in_format_of(x: Tensor, x_adv: Tensor) -> Tensor:
    """``x_adv`` in the memory format of ``x``: a compiled model is compiled again for each other one."""
    if x_adv.stride() == x.stride() or x_adv.shape != x.shape:
        return x_adv
    return torch.empty_like(x, dtype=x_adv.dtype).copy_(x_adv)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _check_logits(extremes: list[float]) -> None:
    if not all(map(math.isfinite, extremes)):
        msg = "expected finite logits, got NaN or infinite ones"
        raise ValueError(msg)


def _check_perturbed(extremes: list[float]) -> None:
    if not all(map(math.isfinite, extremes)):
        msg = "expected a model with finite gradients, got a perturbed input that is not finite"
        raise ValueError(msg)


def _check_rows(output: Tensor, n: int) -> None:
    if output.ndim == 0 or len(output) != n or not output.isfinite().all():
        msg = f"expected the model to return finite outputs of shape [{n}, ...], got {tuple(output.shape)}"
        raise ValueError(msg + ("" if output.isfinite().all() else " with NaN or infinity"))


def _short(value: Any) -> str:
    name = getattr(value, "__qualname__", None)  # that of a function, whose repr is its address
    return f"{value:.4g}" if isinstance(value, float) else name or repr(value)
