"""What ``fuzz.py`` gives to the library, and what of it the documentation allows.

Odd values have names. Behind each argument stands the set of the names that its documentation allows; whatever else is
accepted is accepted in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsa_lightning import (
    ATLR,
    AdversarialTraining,
    LayerProfile,
    LayerSustainabilityAnalysis,
    LayerwiseRegularizer,
    MNISTDataModule,
    MoonDataModule,
    RobustClassifier,
    RobustnessEvaluation,
    RobustValidation,
    ThreatModel,
)
from lsa_lightning.attacks import (
    APGD,
    FAB,
    FFGSM,
    FGSM,
    PGD,
    TPGD,
    AdaptiveAttack,
    Attack,
    AutoAttack,
    Ensemble,
    ExternalAttack,
    GaussianNoise,
    InputSpace,
    LayerAttack,
    PepperNoise,
    SaltNoise,
    SpeckleNoise,
    Square,
)
from lsa_lightning.callbacks import AdversarialWeightPerturbation, CatastrophicOverfittingStop, ReportLogger, Target
from lsa_lightning.data import CropFlip
from lsa_lightning.evaluation import evaluate_ensemble
from lsa_lightning.functional import (
    layerwise_penalty,
    robustness_generalization_score,
    select_mvl,
    wilson_interval,
)
from lsa_lightning.layers import resolve_layers
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, CosineDistance, RelativeError
from lsa_lightning.models import CNN, MLP, VGG19, Normalize, PerStep, WideResNet
from lsa_lightning.objectives import MART, TRADES
from lsa_lightning.regularizers import LinearRamp
from lsa_lightning.runs.stages import AnalysisStage, EvaluationStage

Names = frozenset[str]

ODD: dict[str, Any] = {
    "none": None,
    "nan": float("nan"),
    "inf": float("inf"),
    "minus": -1,
    "zero": 0,
    "half": 0.5,
    "one": 1,
    "one and a half": 1.5,
    "1.0": 1.0,
    "huge": 10**30,
    "too large for a float": 10**400,
    "true": True,
    "false": False,
    "'false'": "false",
    "''": "",
    "[]": [],
    "[0.5]": [0.5],
    "['a']": ["a"],
    "{}": {},
    "{'a': None}": {"a": None},
    "object": object(),
    "class": int,
    "function": len,
    "tensor [1.0]": torch.tensor([1.0]),
    "tensor true": torch.tensor(True),
    "array [1.0]": np.array([1.0]),
    "numpy 0.5": np.float32(0.5),
    "numpy 2": np.int64(2),
    "tensor 2": torch.tensor(2),
    "bytes": b"a",
    "complex": 1j,
}
"""Values of arguments, by name."""


def names(*allowed: str) -> Names:
    """A set of names."""
    return frozenset(allowed)


NONE, FLAG, FUNCTION, TEXT, NOTHING = (
    names("none"),
    names("true", "false"),
    names("class", "function"),
    names("'false'"),
    names(),
)
FINITE = names("minus", "zero", "half", "one", "one and a half", "1.0", "huge", "numpy 0.5", "numpy 2")
NOT_NEGATIVE = FINITE - {"minus"}
POSITIVE = NOT_NEGATIVE - {"zero"}
SHARE = names("zero", "half", "one", "1.0", "numpy 0.5")
SHARE_ABOVE_0 = SHARE - {"zero"}
INTEGER = names("minus", "zero", "one", "huge", "too large for a float", "numpy 2", "tensor 2")
FROM_0 = INTEGER - {"minus"}
FROM_1 = FROM_0 - {"zero"}
FROM_2 = FROM_1 - {"one"}
SEED = INTEGER | NONE
LAYERS = names("none", "'false'", "['a']")
RADII = names("[0.5]", "array [1.0]", "tensor [1.0]")

TINY: dict[str, Any] = {"eps": 0.1, "bounds": None}
ATTACK = {"eps": NOT_NEGATIVE, "norm": NOTHING, "bounds": NONE}
RANDOM = {**ATTACK, "seed": SEED}
STEPS = {**RANDOM, "alpha": POSITIVE | NONE, "steps": FROM_1}
TARGET = {"input_space": NONE, "batch_fn": FUNCTION | NONE, "backbone": TEXT | NONE, "target": NONE}
PIXELS = {"in_channels": FROM_1, "num_classes": FROM_1}


_NET = MLP(2, [3])


def _analysis(**options: Any) -> Any:
    batch = torch.zeros(2, 2), torch.tensor([0, 1])
    keywords: dict[str, Any] = {
        name: options.pop(name) for name in ("limit_batches", "spread", "attack", "dataloader") if name in options
    }
    call: dict[str, Any] = {"dataloader": [batch], "attack": FGSM(0.1, bounds=None), **keywords}
    return LayerSustainabilityAnalysis(**{"model": _NET, **options}).run(**call)


def _attacks() -> dict[str, Attack]:
    return {"pgd": PGD(0.1, bounds=None), "fgsm": FGSM(0.1, bounds=None)}


def _on_meta(make: Callable[..., Any], **options: Any) -> Any:
    """Without memory, and without drawing weights."""
    if any(isinstance(value, int) and value > 100 for value in options.values()):
        msg = "expected a size of which there can be weights"
        raise ValueError(msg)
    with torch.device("meta"):
        return make(**options)


Constructor = tuple[Callable[..., Any], Callable[[], dict[str, Any]], dict[str, Names]]

CONSTRUCTORS: dict[str, Constructor] = {
    "ThreatModel": (ThreatModel, lambda: dict(TINY), ATTACK),
    "FGSM": (FGSM, lambda: dict(TINY), ATTACK),
    "FFGSM": (FFGSM, lambda: dict(TINY), {**RANDOM, "alpha": POSITIVE | NONE}),
    "PGD": (PGD, lambda: dict(TINY), {**STEPS, "random_start": FLAG, "best": NOTHING}),
    "TPGD": (TPGD, lambda: dict(TINY), STEPS),
    "APGD": (
        APGD,
        lambda: {**TINY, "loss": "dlr"},
        {
            **RANDOM,
            "steps": FROM_1,
            "loss": NOTHING,
            "best": NOTHING,
            "n_targets": FROM_1 | NONE,
            "n_restarts": FROM_1,
            "n_eot": FROM_1,
            "rho": SHARE,
        },
    ),
    "FAB": (
        FAB,
        lambda: dict(TINY),
        {
            **RANDOM,
            "steps": FROM_1,
            "n_targets": FROM_1 | NONE,
            "n_restarts": FROM_1,
            "alpha_max": SHARE,
            "beta": SHARE_ABOVE_0,
        },
    ),
    "LayerAttack": (
        LayerAttack,
        lambda: dict(TINY),
        {**RANDOM, "steps": FROM_1, "layers": NONE, "measure": NONE, "n_restarts": FROM_1},
    ),
    "AdaptiveAttack": (
        AdaptiveAttack,
        lambda: dict(TINY),
        {**RANDOM, "steps": FROM_1, "regularizer": NONE, "best": NOTHING, "n_restarts": FROM_1},
    ),
    "AutoAttack": (
        AutoAttack,
        lambda: dict(TINY),
        {
            **RANDOM,
            "version": NOTHING,
            **dict.fromkeys(("steps", "n_targets", "n_queries", "n_restarts", "n_eot"), FROM_1),
        },
    ),
    "Square": (
        Square,
        lambda: dict(TINY),
        {**RANDOM, "n_queries": FROM_1, "p_init": SHARE_ABOVE_0, "rescale_schedule": FLAG},
    ),
    "Ensemble": (
        Ensemble,
        lambda: dict(TINY),
        {**RANDOM, "steps": FROM_1, "n_targets": FROM_1, "n_queries": FROM_1, "attacks": NONE},
    ),
    "ExternalAttack": (
        partial(ExternalAttack, lambda model, eps: None),
        lambda: dict(TINY),
        RANDOM,
    ),
    "ExternalAttack of": (ExternalAttack, lambda: dict(TINY), {"attack": NOTHING}),
    "GaussianNoise": (GaussianNoise, lambda: dict(TINY), RANDOM),
    "SpeckleNoise": (SpeckleNoise, lambda: dict(TINY), RANDOM),
    "SaltNoise": (SaltNoise, lambda: dict(TINY), {**RANDOM, "amount": SHARE}),
    "PepperNoise": (PepperNoise, lambda: dict(TINY), {**RANDOM, "amount": SHARE}),
    "with_eps": (PGD(**TINY).with_eps, dict, {"eps": NOT_NEGATIVE}),
    "InputSpace": (InputSpace, lambda: {"mean": 0.5, "std": 0.5}, {"mean": FINITE | RADII, "std": POSITIVE | RADII}),
    "InputSpace of": (InputSpace(0.5, 0.5), dict, {"attack": NOTHING}),
    "AdversarialTraining": (
        AdversarialTraining,
        lambda: {"attack": FGSM(**TINY)},
        {**TARGET, "attack": NOTHING, "objective": NONE, "eps_warmup_epochs": NOT_NEGATIVE},
    ),
    "ATLR": (
        ATLR,
        lambda: {"attack": FGSM(**TINY)},
        {
            **TARGET,
            "attack": NOTHING,
            "objective": NONE,
            "eps_warmup_epochs": NOT_NEGATIVE,
            "regularizer": NONE,
            "layers": LAYERS,
            "mvl": LAYERS,
            "eta": FINITE,
            "top_k": FROM_1 | NONE,
            "analysis_attack": NONE,
            "analysis_every_n_epochs": FROM_1,
            "analysis_limit_batches": FROM_1 | NONE,
            "warmup_epochs": FROM_0,
        },
    ),
    "RobustValidation": (
        RobustValidation,
        lambda: {"attacks": _attacks(), "rg_attack": "fgsm", "rg_eps": [0.1]},
        {
            **TARGET,
            "attacks": NOTHING,
            "rg_attack": NONE,
            "rg_eps": RADII,
            "every_n_epochs": FROM_1,
            "limit_batches": FROM_1 | NONE,
        },
    ),
    "CatastrophicOverfittingStop": (
        CatastrophicOverfittingStop,
        lambda: {"attack": FGSM(**TINY)},
        {**TARGET, "attack": NOTHING, "drop": SHARE},
    ),
    "AdversarialWeightPerturbation": (
        AdversarialWeightPerturbation,
        dict,
        {"gamma": NOT_NEGATIVE, "warmup_epochs": FROM_0},
    ),
    "ReportLogger": (ReportLogger, dict, {"every_n_epochs": FROM_0}),
    "Target": (Target, dict, {"input_space": NONE, "batch_fn": FUNCTION, "backbone": TEXT | NONE}),
    "RobustnessEvaluation": (
        RobustnessEvaluation,
        lambda: {"attacks": _attacks(), "eps": [0.1]},
        {
            "attacks": NOTHING,
            "eps": RADII,
            "training_eps": POSITIVE | NONE,
            "batch_fn": FUNCTION,
            "limit_batches": FROM_1 | NONE,
            "seed": INTEGER,
            "progress": FLAG | NONE,
        },
    ),
    "MaskingChecks": (
        MaskingChecks,
        lambda: dict(TINY),
        {
            "eps": POSITIVE,
            "norm": NOTHING,
            "bounds": NONE,
            "n_samples": FROM_1,
            "steps": FROM_1,
            "n_queries": FROM_1,
            "seed": INTEGER,
            "batch_fn": FUNCTION,
            "input_space": NONE,
        },
    ),
    "LayerSustainabilityAnalysis": (
        _analysis,
        dict,
        {
            "model": NOTHING,
            "measure": NONE,
            "layers": NONE,
            "batch_fn": NONE,
            "limit_batches": FROM_1 | NONE,
            "spread": FLAG,
            "attack": NOTHING,
            "dataloader": NOTHING,
        },
    ),
    "LayerProfile": (LayerProfile, dict, {"layers": names("['a']")}),
    "AnalysisStage": (
        AnalysisStage,
        lambda: {"attacks": _attacks(), "mvl_from": "pgd"},
        {
            "attacks": NOTHING,
            "mvl_from": NOTHING,
            "measure": NONE,
            "layers": LAYERS,
            "eta": FINITE,
            "top_k": FROM_1 | NONE,
            "limit_batches": FROM_1 | NONE,
        },
    ),
    "EvaluationStage": (
        EvaluationStage,
        lambda: {"attacks": _attacks(), "eps": [0.1]},
        {
            "attacks": NOTHING,
            "eps": RADII,
            "training_eps": POSITIVE | NONE,
            "limit_batches": FROM_1 | NONE,
            "seed": INTEGER,
            "progress": FLAG | NONE,
            "masking": NONE,
            "draw": NONE,
        },
    ),
    "LayerwiseRegularizer": (
        LayerwiseRegularizer,
        dict,
        {"gamma": NOT_NEGATIVE, "measure": NONE, "schedule": FUNCTION | NONE, "per_sample": FLAG},
    ),
    "LinearRamp": (LinearRamp, dict, {"warmup_epochs": FROM_1}),
    "TRADES": (TRADES, dict, {"beta": NOT_NEGATIVE}),
    "MART": (MART, dict, {"beta": NOT_NEGATIVE}),
    "select_mvl": (
        select_mvl,
        lambda: {"layers": ["a", "b"], "mean": [0.1, 0.2], "mu": 0.15, "sigma": 0.1},
        {
            "layers": NOTHING,
            "mean": NOTHING,
            "mu": FINITE,
            "sigma": NOT_NEGATIVE,
            "eta": FINITE,
            "top_k": names("none", "one", "numpy 2", "tensor 2"),
        },
    ),
    "layerwise_penalty": (
        lambda gamma: layerwise_penalty({"a": torch.ones(1, 2)}, {"a": torch.ones(1, 2)}, {"a": gamma}),
        dict,
        {"gamma": NOT_NEGATIVE},
    ),
    "wilson_interval": (
        wilson_interval,
        lambda: {"hits": 1, "samples": 2},
        {
            "hits": names("zero", "one", "numpy 2", "tensor 2"),
            "samples": FROM_1,
            "confidence": names("half", "numpy 0.5"),
        },
    ),
    "robustness_generalization_score": (robustness_generalization_score, dict, {"accuracies": RADII}),
    "MoonDataModule": (
        MoonDataModule,
        dict,
        {
            "noise": NOT_NEGATIVE,
            "train_size": FROM_2,
            "val_size": FROM_1,
            "test_size": FROM_1,
            "standardize": FLAG,
            "batch_size": FROM_1,
            "seed": FROM_0 - {"huge", "too large for a float"},
        },
    ),
    "MNISTDataModule": (
        MNISTDataModule,
        lambda: {"num_workers": 2},
        {
            "root": TEXT,
            "batch_size": FROM_1,
            "val_size": FROM_1,
            "num_workers": FROM_0,
            "pin_memory": FLAG | NONE,
            "persistent_workers": FLAG | NONE,
            "augment": FLAG,
            "cache": FLAG,
            "seed": FROM_0,
            "download": FLAG,
            "dataset_cls": FUNCTION | NONE,
            "image_shape": NONE,
            "num_classes": FROM_2,
            "train_transform": FUNCTION | NONE,
            "eval_transform": FUNCTION | NONE,
        },
    ),
    "CropFlip": (CropFlip, dict, {"padding": FROM_0, "flip": FLAG}),
    "MLP": (
        partial(_on_meta, MLP),
        dict,
        {"in_features": FROM_1, "hidden": NOTHING, "out_features": FROM_1, "activation": NOTHING},
    ),
    "CNN": (partial(_on_meta, CNN), dict, {**PIXELS, "image_size": NOTHING}),
    "VGG19": (partial(_on_meta, VGG19), dict, PIXELS),
    "WideResNet": (
        partial(_on_meta, WideResNet),
        lambda: {"depth": 10},
        {**PIXELS, "depth": NOTHING, "width": FROM_1, "dropout": SHARE - {"one", "1.0"}},
    ),
    "Normalize": (Normalize, lambda: {"mean": [0.5], "std": [0.5]}, {"mean": RADII, "std": RADII}),
    "PerStep": (PerStep, lambda: {"scheduler": len}, {"scheduler": FUNCTION, "length": TEXT, "share": SHARE_ABOVE_0}),
    "RobustClassifier": (
        RobustClassifier,
        lambda: {"backbone": nn.Identity()},
        {"backbone": NOTHING, "normalize": NONE, "optimizer": FUNCTION, "scheduler": FUNCTION | NONE},
    ),
}
"""By name: what is called, its arguments otherwise, and what is documented for those that are varied."""


SAMPLES, FEATURES, CLASSES = 8, 4, 3


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape or (SAMPLES, FEATURES), generator=generator)


def _holding(value: float, generator: torch.Generator) -> Tensor:
    return _uniform(generator).index_fill(0, torch.tensor([2]), value)


INPUTS: dict[str, Callable[[torch.Generator], Any]] = {
    "plain": _uniform,
    "float16": lambda g: _uniform(g).half(),
    "bfloat16": lambda g: _uniform(g).bfloat16(),
    "float64": lambda g: _uniform(g).double(),
    "non-contiguous": lambda g: _uniform(g, FEATURES, SAMPLES).T,
    "requires_grad": lambda g: _uniform(g).requires_grad_(),
    "expanded": lambda g: _uniform(g, 1, FEATURES).expand(SAMPLES, FEATURES),
    "image": lambda g: _uniform(g, SAMPLES, 1, 2, 2),
    "NaN": lambda g: _holding(float("nan"), g),
    "infinite": lambda g: _holding(float("inf"), g),
    "too bright": lambda g: _holding(2.0, g),
    "int64": lambda g: _uniform(g).round().long(),
    "bool": lambda g: _uniform(g) > 0.5,
    "complex": lambda g: torch.complex(_uniform(g), _uniform(g)),
    "one-dimensional": lambda g: _uniform(g, SAMPLES),
    "featureless": lambda g: torch.zeros(SAMPLES, 0),
    "no": lambda g: torch.zeros(0, FEATURES),
    "fewer": lambda g: _uniform(g, 5, FEATURES),
    "scalar": lambda g: torch.tensor(0.5),
    "list of": lambda g: _uniform(g).tolist(),
    "array of": lambda g: _uniform(g).numpy(),
}
"""Inputs by name, in [0, 1] unless they are to be odd."""

LABELS: dict[str, Callable[[torch.Generator], Any]] = {
    "plain": lambda g: torch.randint(CLASSES, (SAMPLES,), generator=g),
    "int32": lambda g: torch.randint(CLASSES, (SAMPLES,), generator=g).int(),
    "uint8": lambda g: torch.randint(CLASSES, (SAMPLES,), generator=g).byte(),
    "whole float": lambda g: torch.randint(CLASSES, (SAMPLES,), generator=g).float(),
    "fractional": lambda g: torch.rand(SAMPLES, generator=g) + 0.1,
    "NaN": lambda g: torch.full((SAMPLES,), float("nan")),
    "negative": lambda g: -torch.ones(SAMPLES, dtype=torch.int64),
    "ignored": lambda g: torch.full((SAMPLES,), -100),
    "too large": lambda g: torch.full((SAMPLES,), CLASSES),
    "column of": lambda g: torch.randint(CLASSES, (SAMPLES, 1), generator=g),
    "one-hot": lambda g: torch.eye(CLASSES)[torch.randint(CLASSES, (SAMPLES,), generator=g)],
    "scalar": lambda g: torch.tensor(1),
    "fewer": lambda g: torch.randint(CLASSES, (3,), generator=g),
    "no": lambda g: torch.zeros(0, dtype=torch.int64),
    "list of": lambda g: [0] * SAMPLES,
    "none as": lambda g: None,
}
"""Labels by name."""


class UsersOwnError(Exception):
    """Raised by a user's model; the library has to let it through."""


class _Model(nn.Module):
    """Takes any floating input; some of its modules are in eval mode, as a user may have left them."""

    def __init__(self) -> None:
        super().__init__()
        parts = [nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU()]
        self.net = nn.Sequential(nn.Flatten(), *parts, nn.Linear(8, CLASSES))
        self.net[2].eval()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.net[1].weight.grad = torch.ones(8, FEATURES)  # as with gradient accumulation

    def forward(self, x: Tensor) -> Any:
        return self.net(x.float())


def _model(change: Callable[[_Model, Tensor], Any], **attributes: Any) -> Callable[[], nn.Module]:
    """A class of models whose forward is changed."""
    return type("Odd", (_Model,), {"forward": change, **attributes})


def _raise(model: _Model, x: Tensor) -> Any:
    raise UsersOwnError


def _in_place(model: _Model, x: Tensor) -> Any:
    return model.net(x.sub_(0.5).float())


def _counting(model: _Model, x: Tensor) -> Any:
    model.calls.add_(1)
    return model.net(x.float())


def _drawing(model: _Model, x: Tensor) -> Any:
    return model.net(x.float() + 0.01 * torch.rand(1) + 0.01 * np.random.rand())  # noqa: NPY002


def _with(output: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return _model(lambda model, x: output(model.net(x.float())))


MODELS: dict[str, Callable[[], Any]] = {
    "plain": _Model,
    "eval-mode": lambda: _Model().eval(),
    "in-place": _model(_in_place),
    "counting": _model(_counting),
    "drawing": _model(_drawing),
    "mapping": _with(lambda logits: {"loss": None, "logits": logits}),
    "one-logit": _with(lambda logits: logits[:, :1]),
    "raising": _model(_raise),
    "tuple": _with(lambda logits: (logits, logits)),
    "None-giving": _with(lambda logits: None),
    "NaN": _with(lambda logits: logits * float("nan")),
    "constant": _with(lambda logits: torch.zeros(len(logits), CLASSES)),
    "detached": _with(torch.detach),
    "too-short": _with(lambda logits: logits[:-1]),
    "pooled": _with(lambda logits: logits.mean()),
    "dense": _with(lambda logits: logits[:, :, None].repeat(1, 1, 5)),
    "integer": _with(lambda logits: logits.round().long()),
    "probability": _with(lambda logits: logits.softmax(dim=1)),
    "stateless": nn.Flatten,
    "no": lambda: None,
    "name of a": lambda: "model",
}
"""Models of three classes by name."""


User = tuple[Callable[[Any, Any, Any], Any], Names, Names, Names]

X_OF_ATTACKS = names("plain", "float16", "bfloat16", "float64", "non-contiguous", "requires_grad", "expanded", "image")
Y_OF_ATTACKS = names("plain", "int32", "uint8", "whole float")
ANY_X, ANY_Y, ANY_MODEL = names(*INPUTS), names(*LABELS), names(*MODELS)
GOOD_MODELS = names("plain", "eval-mode", "in-place", "counting", "drawing", "mapping", "raising", "stateless")
NOT_DIFFERENTIABLE = names("constant", "detached")


def _attack_with(attack: Attack, models: Names = GOOD_MODELS) -> User:
    return attack, X_OF_ATTACKS, Y_OF_ATTACKS, models


def _noise(attack: Attack) -> User:
    return attack, X_OF_ATTACKS, ANY_Y, ANY_MODEL


def _measure(measure: ComparisonMeasure) -> User:
    # NaN and infinity come out again; of two wholes, whatever can be subtracted is a representation.
    odd = names("NaN", "infinite", "too bright", "int64", "one-dimensional", "fewer")
    return lambda model, x, y: measure(x, x * 0.9 if isinstance(x, Tensor) else x), X_OF_ATTACKS | odd, ANY_Y, ANY_MODEL


def _analyse(model: Any, x: Any, y: Any) -> Any:
    return LayerSustainabilityAnalysis(model).run([(x, y)], FGSM(0.1, bounds=None))


def _analyse_noise(model: Any, x: Any, y: Any) -> Any:
    return LayerSustainabilityAnalysis(model).run([(x, y)], lambda model, x, y: x + 0.1)


def _evaluate(model: Any, x: Any, y: Any) -> Any:
    attacks = {"fgsm": FGSM(0.1), "noise": GaussianNoise(0.1)}
    return RobustnessEvaluation(attacks, [0.1], progress=False).run(model, [(x, y)])


def _evaluate_ensemble(model: Any, x: Any, y: Any) -> Any:
    return evaluate_ensemble(model, [(x, y)], Ensemble(0.1, attacks={"fgsm": FGSM(0.1)}))


def _check_masking(model: Any, x: Any, y: Any) -> Any:
    return MaskingChecks(0.1, n_samples=SAMPLES, steps=1, n_queries=2).run(model, [(x, y)])


USERS: dict[str, User] = {
    "FGSM": _attack_with(FGSM(0.1)),
    "FFGSM": _attack_with(FFGSM(0.1)),
    "PGD": _attack_with(PGD(0.1, steps=2)),
    "PGD L2 success": _attack_with(PGD(0.1, steps=2, norm="L2", best="success")),
    "APGD": _attack_with(APGD(0.1, steps=3)),
    "APGD dlr": _attack_with(APGD(0.1, steps=3, loss="dlr"), GOOD_MODELS - {"one-logit"}),
    "TPGD": _attack_with(TPGD(0.1, steps=2)),
    "FAB": _attack_with(FAB(0.1, steps=2)),
    "Square": _attack_with(Square(0.1, n_queries=3), GOOD_MODELS | NOT_DIFFERENTIABLE),
    "Ensemble": _attack_with(Ensemble(0.1, attacks={"fgsm": FGSM(0.1), "pgd": PGD(0.1, steps=2)})),
    "GaussianNoise": _noise(GaussianNoise(0.1)),
    "SaltNoise": _noise(SaltNoise(0.1)),
    "InputSpace": (
        InputSpace(0.5, 0.5)(FGSM(0.1)),
        X_OF_ATTACKS,
        Y_OF_ATTACKS,
        GOOD_MODELS,
    ),
    "RelativeError": _measure(RelativeError()),
    "CenteredRelativeError": _measure(CenteredRelativeError()),
    "CosineDistance": _measure(CosineDistance()),
    "analysis": (_analyse, X_OF_ATTACKS | {"too bright"}, Y_OF_ATTACKS, GOOD_MODELS),
    "analysis of a shift": (
        _analyse_noise,
        X_OF_ATTACKS | {"too bright", "int64", "bool", "complex", "fewer"},
        ANY_Y - {"list of", "none as"},
        ANY_MODEL - {"stateless", "no", "name of a"},
    ),
    "resolve_layers": (
        lambda model, x, y: resolve_layers(model, None, x),
        ANY_X - {"one-dimensional", "featureless", "no", "scalar", "list of", "array of"},
        ANY_Y,
        ANY_MODEL - {"stateless", "no", "name of a"},
    ),
    "evaluation": (_evaluate, X_OF_ATTACKS, Y_OF_ATTACKS, GOOD_MODELS),
    "ensemble evaluation": (_evaluate_ensemble, X_OF_ATTACKS, Y_OF_ATTACKS, GOOD_MODELS),
    "masking checks": (_check_masking, X_OF_ATTACKS, Y_OF_ATTACKS, GOOD_MODELS | NOT_DIFFERENTIABLE),
}
"""What runs on a model, inputs and labels, and which of each it documents."""


OPTION_VALUES = {
    "none": "null",
    "nan": "nan",
    "inf": "inf",
    "minus": "-1",
    "zero": "0",
    "half": "0.5",
    "one": "1",
    "one and a half": "1.5",
    "99": "99",
    "true": "true",
    "'false'": "'false'",
    "''": "''",
    "[]": "[]",
    "[0.5]": "[0.5]",
    "['nowhere']": "[nowhere]",
    "{}": "{}",
}
"""Values of Hydra overrides, as they are typed."""

_ROUND = names("one", "99")
_REAL = names("minus", "zero", "half", "one", "one and a half", "99")
_FROM_ZERO = _REAL - {"minus"}
_ABOVE_ZERO = _FROM_ZERO - {"zero"}

OPTIONS: dict[str, tuple[list[str], Names]] = {
    "threat.eps": ([], _FROM_ZERO),
    "threat.norm": ([], NOTHING),
    "threat.bounds": ([], NONE),
    "attack.steps": ([], _ROUND),
    "attack.alpha": ([], _ABOVE_ZERO | NONE),
    "attack.random_start": ([], names("true")),
    "attack.seed": ([], _ROUND | {"zero", "minus", "none"}),
    "objective.beta": (["objective=trades"], _FROM_ZERO),
    "regularizer.gamma": ([], _FROM_ZERO),
    "regularizer.per_sample": ([], names("true")),
    "callbacks.atlr.eta": ([], _REAL),
    "callbacks.atlr.top_k": ([], _ROUND | NONE),
    "callbacks.atlr.layers": ([], names("none", "'false'", "['nowhere']")),
    "callbacks.atlr.mvl": ([], names("none", "'false'", "['nowhere']")),
    "callbacks.atlr.warmup_epochs": ([], _ROUND | {"zero"}),
    "callbacks.atlr.analysis_every_n_epochs": ([], _ROUND),
    "callbacks.atlr.analysis_attack": ([], NONE),
    "callbacks.atlr.eps_warmup_epochs": ([], _FROM_ZERO),
    "callbacks.robust_validation.every_n_epochs": ([], _ROUND),
    "callbacks.robust_validation.rg_attack": ([], NONE),
    "analysis.attacks.salt": ([], names("{}")),
    "analysis.layers": ([], NONE),
    "analysis.top_k": ([], _ROUND | NONE),
    "analysis.mvl_from": ([], NOTHING),
    "analysis.limit_batches": ([], _ROUND | NONE),
    "analysis.nosuchkey": ([], NOTHING),
    "evaluation.attacks.pgd": ([], names("{}")),
    "evaluation.eps": ([], names("[0.5]")),
    "evaluation.draw": ([], NONE),
    "evaluation.masking.n_samples": ([], _ROUND),
    "evaluation.progress": ([], names("true", "none")),
    "data.batch_size": ([], _ROUND),
    "data.noise": ([], _FROM_ZERO),
    "data.standardize": ([], names("true")),
    "model.backbone.hidden": ([], NOTHING),
    "optimized_metric": ([], NONE),
}
"""Options of ``lsa-train`` by name: what else is overridden, and which values are documented."""
