"""Small models, all attacks, and a record of everything that an attack must leave as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import (
    APGD,
    FAB,
    FFGSM,
    FGSM,
    NFGSM,
    PGD,
    TPGD,
    AdaptiveAttack,
    Attack,
    AutoAttack,
    Brightness,
    Contrast,
    Ensemble,
    GaussianNoise,
    GradientAttack,
    LayerAttack,
    PepperNoise,
    SaltNoise,
    SpeckleNoise,
    Square,
)
from lsa_lightning.attacks.balls import Bounds
from lsa_lightning.attacks.noise import Noise
from lsa_lightning.functional import predicted_labels
from lsa_lightning.utils.isolation import evaluating


class AttackCase(NamedTuple):
    """A line of the table of attacks: how it is made of ``eps`` and ``bounds``, and what tests must know of it."""

    make: Callable[..., Attack]
    norm: str = "Linf"
    passes: int = 2
    """Forward passes of the model that it makes at least."""
    logits: int = 1
    """Logits that it needs at least."""
    watches: bool = False
    """Whether it needs a module with a layer before the last one."""

    @property
    def draws(self) -> bool:
        """Whether it needs random numbers."""
        return "seed" in signature(self.make).parameters

    def __call__(self, eps: float, bounds: Bounds = (0.0, 1.0)) -> Attack:
        """With seed 0, if it draws."""
        return self.make(eps, bounds=bounds, **({"seed": 0} if self.draws else {}))


CASES: dict[str, AttackCase] = {
    "fgsm": AttackCase(FGSM, passes=1),
    "fgsm l2": AttackCase(partial(FGSM, norm="L2"), "L2", passes=1),
    "ffgsm": AttackCase(FFGSM, passes=1),
    "ffgsm l2": AttackCase(partial(FFGSM, norm="L2"), "L2", passes=1),
    "nfgsm": AttackCase(NFGSM, passes=1),
    "nfgsm l2": AttackCase(partial(NFGSM, norm="L2"), "L2", passes=1),
    "pgd": AttackCase(partial(PGD, steps=2)),
    "pgd l2": AttackCase(partial(PGD, steps=2, norm="L2"), "L2"),
    "tpgd": AttackCase(partial(TPGD, steps=2)),
    "tpgd l2": AttackCase(partial(TPGD, steps=2, norm="L2"), "L2"),
    "apgd": AttackCase(partial(APGD, steps=5)),
    "apgd success": AttackCase(partial(APGD, steps=5, best="success")),
    "apgd l2": AttackCase(partial(APGD, steps=5, norm="L2"), "L2"),
    "apgd dlr": AttackCase(partial(APGD, steps=5, loss="dlr"), logits=3),
    "apgd targeted dlr": AttackCase(partial(APGD, steps=3, loss="dlr", n_targets=3), logits=4),
    "apgd eot": AttackCase(partial(APGD, steps=3, n_eot=2)),
    "fab": AttackCase(partial(FAB, steps=3)),
    "fab l2": AttackCase(partial(FAB, steps=3, norm="L2"), "L2"),
    "fab targeted": AttackCase(partial(FAB, steps=2, n_targets=2, n_restarts=2)),
    "layer": AttackCase(partial(LayerAttack, layers=["logits"], steps=3), watches=True),
    "adaptive": AttackCase(partial(AdaptiveAttack, layers=["logits"], steps=3), watches=True),
    "adaptive l2": AttackCase(partial(AdaptiveAttack, layers=["logits"], steps=3, norm="L2"), "L2", watches=True),
    "square": AttackCase(partial(Square, n_queries=4)),
    "square l2": AttackCase(partial(Square, n_queries=4, norm="L2"), "L2"),
    "ensemble": AttackCase(partial(Ensemble, steps=2, n_queries=2)),
    "ensemble l2": AttackCase(partial(Ensemble, steps=2, n_queries=2, norm="L2"), "L2"),
    "autoattack": AttackCase(partial(AutoAttack, steps=2, n_queries=2, n_targets=2)),
    "autoattack plus, l2": AttackCase(
        partial(AutoAttack, version="plus", steps=2, n_queries=2, n_targets=2, n_restarts=2, norm="L2"), "L2"
    ),
    "gaussian": AttackCase(GaussianNoise, passes=0),
    "salt": AttackCase(partial(SaltNoise, amount=0.5), passes=0),
    "pepper": AttackCase(partial(PepperNoise, amount=0.5), passes=0),
    "speckle": AttackCase(SpeckleNoise, passes=0),
    "gaussian l2": AttackCase(partial(GaussianNoise, norm="L2"), "L2", passes=0),
    "salt l2": AttackCase(partial(SaltNoise, amount=0.5, norm="L2"), "L2", passes=0),
    "pepper l2": AttackCase(partial(PepperNoise, amount=0.5, norm="L2"), "L2", passes=0),
    "speckle l2": AttackCase(partial(SpeckleNoise, norm="L2"), "L2", passes=0),
    "brightness": AttackCase(Brightness, passes=0),
    "brightness l2": AttackCase(partial(Brightness, norm="L2"), "L2", passes=0),
    "contrast": AttackCase(Contrast, passes=0),
    "contrast l2": AttackCase(partial(Contrast, norm="L2"), "L2", passes=0),
}
"""The one table of attacks: a line here, and every test that holds for all attacks holds for a new one."""

ATTACKS = {name: case for name, case in CASES.items() if case.logits == 1}
"""Those for any number of logits."""
GRADIENT_ATTACKS = {name: case for name, case in ATTACKS.items() if isinstance(case(0.1), GradientAttack)}
NOISES = {name: case for name, case in ATTACKS.items() if isinstance(case(0.1), Noise)}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class FlatLogit(nn.Module):
    """A binary classifier that returns ``[N]``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = vector_model(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(1)


class Failing(nn.Module):
    """Raises a RuntimeError in its ``fail_at``-th forward pass, counted from 0."""

    def __init__(self, body: nn.Module, fail_at: int) -> None:
        super().__init__()
        self.body = body
        self.fail_at = fail_at
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.fail_at:
            msg = "failing on purpose"
            raise RuntimeError(msg)
        return self.body(x)


def vector_model(logits: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, logits)
    )


def image_model(logits: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, logits)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one logit": lambda: vector_model(1),
    "flat logit": FlatLogit,
    "two classes": lambda: vector_model(2),
    "many classes": lambda: vector_model(7),
    "images, one logit": lambda: image_model(1),
    "images, many classes": lambda: image_model(5),
}


def make_batch(name: str, n: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs in [0, 1] and labels for the model ``name`` of :data:`MODELS`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 2, 5, 5) if name.startswith("images") else (n, 6)
    x = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    classes = {"one logit": 2, "flat logit": 2, "two classes": 2, "many classes": 7, "images, one logit": 2}
    return x, torch.randint(classes.get(name, 5), (n,), generator=generator)


def make_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model in train mode, made without moving the global random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name]().to(dtype)


def own_labels(model: nn.Module, x: Tensor) -> Tensor:
    """What the model predicts, so that every attack has something to do."""
    with evaluating(model), torch.no_grad():
        return predicted_labels(model(x))


class ModelState(NamedTuple):
    """What an attack must not change."""

    parameters: list[Tensor]
    gradients: list[Tensor | None]
    requires_grad: list[bool]
    buffers: list[Tensor]
    buffer_ids: list[int]
    modes: list[bool]
    hooks: list[int]


def model_state(model: nn.Module) -> ModelState:
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return ModelState(
        [p.detach().clone() for p in parameters],
        [None if p.grad is None else p.grad.clone() for p in parameters],
        [p.requires_grad for p in parameters],
        [b.clone() for b in buffers],
        [id(b) for b in buffers],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    )


def assert_same_state(before: ModelState, after: ModelState) -> None:
    for field, old, new in zip(ModelState._fields, before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
            assert same, f"{field} changed: {a} -> {b}"


def random_states() -> list[Any]:
    """The global random states of torch, NumPy and Python, comparable with ``==``."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy_state = (np.asarray(keys).tolist(), position, has_gauss, cached)
    return [torch.get_rng_state().tolist(), numpy_state, random.getstate()]
