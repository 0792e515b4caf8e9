"""What competes: the base, the tuned opponents, and AT-LR, each with the same number of trials."""

from __future__ import annotations

import random
from dataclasses import replace

from benchmarks.search.training import Setting, Trial

ARMS = {
    "base": "AT-PGD as it comes",
    "lr_plain": "the base with the paper's penalty, gamma 0.1 on all hidden layers",
    "lr_ramped": "the base with what conf/ does by itself: gamma 0.1, ramped, on the hidden layers that LSA names",
    "lr_centered": "the base with squared error over the spread, gamma 1, ramped, on all hidden layers and the logits",
    "lr_centered 0.3": "the same with gamma 0.3, what method=centered is",
    "lr_centered_mvl": "the same with gamma 1 on the hidden layers that LSA names, what method=centered_mvl is",
    "tuned": "the tuned opponent: radius, learning rate, weight decay, AT or TRADES, AWP, early stopping",
    "lr": "the same choices, and the layer-wise penalty",
    "lr_u": "the same, and the penalty on unlabelled inputs too",
    "kl_u": "the tuned opponent with KL of the logits on the same unlabelled inputs",
}
TUNED = ("tuned", "lr", "lr_u", "kl_u")
GAMMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_PAPER = Trial(gamma=0.1)
_CENTERED = Trial(gamma=1.0, measure="relative_squared_error", layers=("learnable", "logits"), ramp=True)
_MVL = replace(_CENTERED, layers=("learnable",), mvl=True)
FORMS = {
    "base": Trial(),
    "lr_plain": _PAPER,
    "lr_plain 0.03": replace(_PAPER, gamma=0.03),
    "lr_plain act1": replace(_PAPER, layers=("act1",)),
    "lr_plain act3": replace(_PAPER, layers=("act3",)),
    "lr_plain ramped": replace(_PAPER, ramp=True),
    "lr_ramped": replace(_PAPER, ramp=True, mvl=True),
    "lr_centered": _CENTERED,
    "lr_centered 0.3": replace(_CENTERED, gamma=0.3),
    "lr_centered 0.1, constant": replace(_CENTERED, gamma=0.1, ramp=False),
    "lr_centered logits": replace(_CENTERED, layers=("logits",)),
    "lr_centered logits 0.3, constant": replace(_CENTERED, gamma=0.3, layers=("logits",), ramp=False),
    "lr_centered_mvl": _MVL,
    "lr_centered_mvl 0.3": replace(_MVL, gamma=0.3),
    "lr_centered_mvl with logits": replace(_CENTERED, mvl=True),
    "lr_centered_mvl with logits, 0.3": replace(_CENTERED, mvl=True, gamma=0.3),
}
"""Untuned forms of the penalty on top of the base; those that are arms too, and others, tried on validation alone."""

FORM_SEEDS = range(1000, 1020)


def fixed(arm: str, setting: Setting) -> Trial:
    """The trial of an arm that is not tuned, or of another form."""
    return replace(FORMS[arm], eps=setting.eps)


def trials(arm: str, setting: Setting, number: int) -> list[Trial]:
    """The trials of an arm, from the base's own settings on; what arms have in common is drawn alike."""
    return [_trial(arm, setting, index) for index in range(number)]


def _trial(arm: str, setting: Setting, index: int) -> Trial:
    common, own = random.Random(f"{setting.name} {index}"), random.Random(f"{setting.name} {index} own")
    trial = Trial(
        eps=common.choice(setting.spread),
        lr=common.choice(setting.lrs),
        weight_decay=common.choice((0.0, 0.01, 0.1, 0.3, 1.0, 3.0)),
        beta=common.choice((0.0, 0.0, 1.0, 3.0, 6.0)),
        awp=common.choice((0.0, 0.0, 0.003, 0.01)),
        keep_best=True,
    )
    if index == 0:
        trial = Trial(eps=setting.eps, keep_best=True)
    if arm == "kl_u":
        return replace(trial, kl=own.choice(GAMMAS))
    if arm == "tuned":
        return trial
    measure, gamma = own.choice(("relative_error", "relative_squared_error")), own.choice(GAMMAS)
    layers, ramp = own.choice(setting.layers), own.choice((False, True))
    return replace(trial, gamma=gamma, measure=measure, layers=layers, ramp=ramp, unlabelled=arm == "lr_u")
