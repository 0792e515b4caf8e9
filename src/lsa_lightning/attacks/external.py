"""Attacks of other libraries (torchattacks, foolbox) behind the interface of this one."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.attacks.gradients import in_float16, pull_back
from lsa_lightning.attacks.losses import class_logits
from lsa_lightning.utils.checks import refuse
from lsa_lightning.utils.random import Purpose, seed_of

_NORMS = {"linf": "Linf", "inf": "Linf", "l2": "L2", "2": "L2", "2.0": "L2", "l1": "L1", "1": "L1", "1.0": "L1"}
"""What attacks call a norm, in small letters."""


class ExternalAttack(Attack):
    """Runs an attack of torchattacks or foolbox as if it were one of ours.

    What those libraries leave open is settled here: inputs of any bounds (or none), shape and precision, and models of
    one logit, are handed over as float32 images in [0, 1] and two logits; what comes back is projected, so that eps
    holds; global random states and parameters' gradients stay as they are. A torchattacks ``alpha`` scales with eps.

    Args:
        attack: a torchattacks class, or a partial of one (anything that takes ``model``), which is built for each
            batch; or a foolbox attack, ready to be called.
        eps: radius >= 0; replaces the attack's own.
        norm: name of the norm that the attack itself works in, ``"Linf"`` or ``"L2"``; many tell it, and are refused
            if it is another.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the attack's random numbers, or None.

    Raises:
        ValueError: if an argument is outside its range, or ``attack`` is not one of the two.

    Example::

        ExternalAttack(torchattacks.MIFGSM, eps=8 / 255)
        ExternalAttack(functools.partial(torchattacks.CW, c=10), eps=0.5, norm="L2")
        ExternalAttack(foolbox.attacks.LinfDeepFoolAttack(), eps=8 / 255)

    In YAML, ``attack`` is a node with its own ``_target_``, for torchattacks with ``_partial_: true``::

        _target_: lsa_lightning.attacks.ExternalAttack
        eps: ${threat.eps}
        norm: ${threat.norm}
        bounds: ${threat.bounds}
        attack:
          _target_: torchattacks.MIFGSM
          _partial_: true
          steps: 10
    """

    def __init__(
        self,
        attack: Callable[..., Any],
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        if not callable(attack) or not (_takes_model(attack) or _is_foolbox(attack)):
            refuse(self, "attack", "a torchattacks class (or a partial of one) or a foolbox attack object", attack)
        own = _own_norm(attack)
        if own not in (None, self.norm):
            refuse(self, "attack", f"one that works in norm={self.norm!r} (this one works in {own})", attack)
        self.attack = attack
        self._alpha_per_eps = _alpha_per_eps(attack, self.eps) if _takes_model(attack) else None

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Hand over, run, take back, project."""
        low, high = self.bounds if self.bounds is not None else _range_around(x, self.eps)
        adapted = _AdaptedModel(model, x, low, high)
        units = ((x - low) / (high - low)).to(torch.float32).clamp(0, 1)
        draw = int(torch.randint(2**63 - 1, (), generator=self.generator(x.device), device=x.device))
        with isolate_rng():
            _seed_all(seed_of(draw, Purpose.EXTERNAL))
            attacked = self._run(adapted, as_four(units), y.flatten().long(), self.eps / (high - low))
        return ball.project(attacked.detach().view_as(x) * (high - low) + low)

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """The other library's own call; everything in units of the bounds' range."""
        if _is_foolbox(self.attack):
            return _run_foolbox(self.attack, model, images, labels, eps)
        accepted = inspect.signature(self.attack).parameters
        options = {"eps": eps, "alpha": None if self._alpha_per_eps is None else eps * self._alpha_per_eps}
        given = {name: value for name, value in options.items() if name in accepted and value is not None}
        attacked: Tensor = self.attack(model=model, **given)(images, labels)
        return attacked


class _AdaptedModel(nn.Module):
    """``model`` for images in [0, 1], with one logit per class.

    The model itself is no submodule: its modes, parameters and device are none of the other library's business.
    """

    def __init__(self, model: Model, x: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.device_marker = nn.Parameter(torch.empty(0, device=x.device))  # where these libraries read the device
        self.call = _in_input_space(model, x, low, high)
        self.in_float16 = in_float16(x)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, C]``, C >= 2, in float32."""
        logits: Tensor = _InputGradientOnly.apply(images, self.call, self.in_float16)
        return logits


class _InputGradientOnly(torch.autograd.Function):
    """A function of x whose backward pass never reaches parameters: foolbox calls ``loss.backward()``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Model, in_float16: bool) -> Tensor:
        """Run ``function`` on a graph of its own."""
        ctx.in_float16 = in_float16
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ctx.x = x.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.y = function(ctx.x)
        return ctx.y.detach()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        """The inner graph stays for further calls, as for a Jacobian row by row."""
        if ctx.in_float16:
            return pull_back(ctx.y, ctx.x, *gradients), None, None
        return torch.autograd.grad(ctx.y, ctx.x, gradients, retain_graph=True)[0], None, None


def as_four(x: Tensor) -> Tensor:
    """``x`` with at least four dimensions, ``[N, C, H, W]``: inputs of fewer become images of one row.

    Example:
        >>> as_four(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 1, 2])
    """
    return x if x.ndim >= 4 else x.reshape(len(x), *[1] * (4 - x.ndim), *x.shape[1:])


def _in_input_space(model: Model, x: Tensor, low: float, high: float) -> Model:
    def call(images: Tensor) -> Tensor:
        points = images.reshape(-1, *x.shape[1:]) * (high - low) + low
        return class_logits(model(points.to(x.dtype))).float()

    return call


def _run_foolbox(attack: Callable[..., Any], model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    adapted = PyTorchModel(model.eval(), bounds=(0, 1), device=images.device)
    attacked: Tensor = attack(adapted, images, Misclassification(labels), epsilons=eps)[1]
    return attacked


def _takes_model(attack: Callable[..., Any]) -> bool:
    """Whether ``attack`` is built from a model, as torchattacks' classes are."""
    return "model" in _parameters(attack) and not _is_foolbox(attack)


def _is_foolbox(attack: Callable[..., Any]) -> bool:
    """Whether ``attack`` is called with a model and a criterion, as foolbox's objects are."""
    return {"model", "criterion", "epsilons"} <= set(_parameters(attack))


def _parameters(attack: Callable[..., Any]) -> Mapping[str, Any]:
    """What it takes; nothing, if it does not tell, as some built-in classes."""
    try:
        return inspect.signature(attack).parameters
    except ValueError:
        return {}


def _own_norm(attack: Callable[..., Any]) -> str | None:
    """The norm that an attack works in, as far as it tells."""
    if _is_foolbox(attack):
        order = getattr(getattr(attack, "distance", None), "p", None)
        return None if order is None else "Linf" if order == float("inf") else f"L{order:g}"
    built, given = getattr(attack, "func", attack), getattr(attack, "keywords", {})
    accepted = _parameters(built)
    if "norm" in accepted:
        return _NORMS.get(str(given.get("norm", accepted["norm"].default)).lower())
    # Those of torchattacks that take a radius and no norm work in Linf, unless their name tells another one.
    if not getattr(built, "__module__", "").startswith("torchattacks.") or "eps" not in accepted:
        return None
    return "L2" if built.__name__.endswith("L2") else "Linf"


def _alpha_per_eps(attack: Callable[..., Any], eps: float) -> float | None:
    """The step size in units of eps: ``alpha`` over ``eps`` if it was given, else the ratio of the two defaults."""
    given = getattr(attack, "keywords", {})
    defaults = inspect.signature(getattr(attack, "func", attack)).parameters
    if "alpha" in given:
        return float(given["alpha"]) / eps if eps > 0 else None
    if "alpha" in defaults and "eps" in defaults:
        return float(defaults["alpha"].default) / float(defaults["eps"].default)
    return None


def _range_around(x: Tensor, eps: float) -> tuple[float, float]:
    """Bounds so wide that they cut no ball off."""
    low, high = torch.stack(x.aminmax()).tolist()
    return low - eps - 1e-3, high + eps + 1e-3


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
