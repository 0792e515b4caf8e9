"""When a check raises its flag: from what was seen of each sample to a verdict in words and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lsa_lightning.functional import wilson_interval

TOLERANCE = 2.0
"""Percentage points of the samples that a difference must exceed to raise a flag."""


SIGNIFICANCE = 1e-3
"""Probability of a false alarm, per comparison, that a difference owed to chance alone raises a flag."""


UNSTABLE = 1e-3
"""Change of the logits between two passes, in units of the largest lead of one class, that is no rounding error."""


AGREEMENT = 0.9
"""Cosine of predicted and measured changes below which gradients are wrong. Honest networks of the benchmark are above
0.98, gradients clipped to one side at 0.7."""


OF_FEW_STEPS = ("pgd_weaker_than_fgsm", "steps_do_not_help", "full_range_above_chance", "black_box_stronger")
"""Flags that more steps of PGD may take back, and cannot raise."""


CLEARLY = (
    f"Clearly: more than chance explains (with a probability below {SIGNIFICANCE:g}) and, of two attacks, by more than "
    f"{TOLERANCE:g} % of all samples; a lead of a few samples is no sign."
)
"""What the criteria mean by it."""


CRITERIA = {
    "pgd_weaker_than_fgsm": "one step fools clearly more than many",
    "accuracy_rises_with_eps": "a smaller eps fools clearly more than a larger one",
    "steps_do_not_help": "random points fool clearly more than PGD",
    "vanishing_gradients": f"clearly more than {TOLERANCE:g} % vanish",
    "full_range_above_chance": "clearly more stay right than by chance",
    "black_box_stronger": "Square fools clearly more than PGD, at eps or beyond",
    "not_deterministic": f"the logits change by more than {UNSTABLE:g}",
    "gradients_disagree": f"the cosine is below {AGREEMENT:g}",
}
"""By the name of each check, when it raises its flag, in a few words."""


_FEWEST = 10


@dataclass(frozen=True)
class MaskingFlag:
    """The outcome of one check.

    Attributes:
        raised: whether the gradients look masked; None where the check does not apply.
        seen: what was seen, in figures; why the check does not apply, where it does not.
    """

    raised: bool | None
    seen: str

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)


def flags(
    observed: dict[str, Tensor], *, eps: float, beyond: Sequence[float] = (), steps: int, most_steps: int
) -> dict[str, MaskingFlag]:
    """All flags, by name.

    Args:
        observed: by name, one value per sample, ``[N]``: its ``label``; the largest entry of its input ``gradient``
            (NaN: there is none) and whether it ``vanished``; its ``agreement`` with differences (NaN: nothing to
            compare); the relative ``change`` of its logits between two passes and whether it was
            ``relabelled``; whether it is correctly classified (``clean``); and, of the latter, whether each attack
            fools the model: ``fgsm``, ``quarter``, ``half``, ``pgd``, ``random``, ``square``, where there are bounds
            ``range`` and, where more steps were tried, ``longest``, which fools all that ``pgd`` does; ``pgd``,
            ``square`` and ``longest`` at a radius beyond eps have it in their names, as ``pgd 0.4``.
        eps: radius of the attacks.
        beyond: the radii beyond it.
        steps: steps of ``pgd``, of ``quarter`` and ``half`` at eps/4 and eps/2, and of ``range`` without ``longest``.
        most_steps: steps of ``longest``, and of ``range`` with it.
    """
    short = f"PGD-{steps}"
    strongest = ("longest", f"PGD-{most_steps}") if "longest" in observed else ("pgd", short)
    verdicts = {
        "pgd_weaker_than_fgsm": _compare(observed, strongest, ("fgsm", "FGSM")),
        "accuracy_rises_with_eps": _first_raised(
            _compare(observed, ("half", f"{short} at eps {eps / 2:g}"), ("quarter", f"{short} at eps {eps / 4:g}")),
            _compare(observed, ("pgd", f"{short} at eps {eps:g}"), ("half", f"{short} at eps {eps / 2:g}")),
        ),
        "steps_do_not_help": _steps_do_not_help(observed, short, strongest),
        "vanishing_gradients": _vanishing_gradients(observed),
        "full_range_above_chance": _full_range_above_chance(observed, strongest[1]),
        "black_box_stronger": _black_box_stronger(observed, strongest, beyond),
        "not_deterministic": _not_deterministic(observed),
        "gradients_disagree": _gradients_disagree(observed),
    }
    if bool(observed["gradient"].isnan().any()):
        for name in ("pgd_weaker_than_fgsm", "accuracy_rises_with_eps", "full_range_above_chance"):
            verdicts[name] = MaskingFlag(None, "does not apply: some input gradients are NaN, or the model gives none")
    return verdicts


def _clearly_more(more: int, fewer: int, samples: int) -> bool:
    """Whether ``more`` exceeds ``fewer`` by the tolerance, and further than chance would have it (sign test)."""
    trials = more + fewer
    chance = sum(math.comb(trials, k) for k in range(more, trials + 1)) / 2**trials
    return 100 * (more - fewer) > TOLERANCE * samples and chance < SIGNIFICANCE


def _low_end(hits: int, samples: int) -> float:
    """What the share, in percent, exceeds but for a probability of :data:`SIGNIFICANCE`."""
    return wilson_interval(hits, samples, 1 - 2 * SIGNIFICANCE)[0]


def _stronger(observed: dict[str, Tensor], first: str, second: str) -> bool:
    """Whether attack ``first`` clearly fools more samples than ``second``."""
    more, fewer = int((observed[first] & ~observed[second]).sum()), int((observed[second] & ~observed[first]).sum())
    return _clearly_more(more, fewer, len(observed["clean"]))


def _compare(observed: dict[str, Tensor], strong: tuple[str, str], weak: tuple[str, str]) -> MaskingFlag:
    """Raised if ``weak`` is stronger than ``strong``; each is an attack's key and its name in words."""
    alone = [int((observed[a] & ~observed[b]).sum()) for a, b in ((weak[0], strong[0]), (strong[0], weak[0]))]
    words = (
        f"{weak[1]} fools {int(observed[weak[0]].sum())} of {len(observed['clean'])} samples, "
        f"{strong[1]} {int(observed[strong[0]].sum())}; only the former {alone[0]}, only the latter {alone[1]}"
    )
    return MaskingFlag(_stronger(observed, weak[0], strong[0]), words)


def _first_raised(*flags: MaskingFlag) -> MaskingFlag:
    """The first that is raised, or the last one."""
    return next((flag for flag in flags if flag.raised), flags[-1])


def _steps_do_not_help(observed: dict[str, Tensor], short: str, strongest: tuple[str, str]) -> MaskingFlag:
    key, longest = strongest
    in_vain = not _stronger(observed, key, "pgd")
    more = f"{longest} {int(observed[key].sum())}, " if key != "pgd" else ""
    words = (
        f"{short} fools {int(observed['pgd'].sum())} of {len(observed['clean'])} samples, {more}"
        f"random points {int(observed['random'].sum())}"
    )
    return MaskingFlag(in_vain and _stronger(observed, "random", key), words)


def _vanishing_gradients(observed: dict[str, Tensor]) -> MaskingFlag:
    if bool(observed["gradient"].isnan().all()):
        return MaskingFlag(True, "the output has no gradient with respect to the input, or NaN")
    vanished, samples = int(observed["vanished"].sum()), len(observed["clean"])
    words = (
        f"input gradients of {vanished} of {samples} samples are 0, NaN or too small for their dtype; "
        f"median of the largest entry {float(observed['gradient'].nanmedian()):.2g}"
    )
    return MaskingFlag(_low_end(vanished, samples) > TOLERANCE, words)


def _full_range_above_chance(observed: dict[str, Tensor], attack: str) -> MaskingFlag:
    if "range" not in observed:
        return MaskingFlag(None, "does not apply: the inputs have no bounds")
    left, samples = int((observed["clean"] & ~observed["range"]).sum()), len(observed["clean"])
    chance = 100 * int(observed["label"].long().bincount().max()) / samples
    words = (
        f"{attack} with the whole range of the bounds leaves {100 * left / samples:.1f} % of {samples} samples "
        f"correct, chance is {chance:.1f} %"
    )
    return MaskingFlag(_low_end(left, samples) > chance, words)


def _black_box_stronger(
    observed: dict[str, Tensor], strongest: tuple[str, str], beyond: Sequence[float]
) -> MaskingFlag:
    key, words = strongest
    at_eps = _compare(observed, strongest, ("square", "Square"))
    farther = [
        _compare(observed, (f"{key} {radius:g}", words), (f"square {radius:g}", f"Square at eps {radius:g}"))
        for radius in beyond
    ]
    found = _first_raised(at_eps, *farther, at_eps)
    if found.raised or not beyond:
        return found
    radii = ", ".join(f"{radius:g}" for radius in beyond)
    return MaskingFlag(False, f"{found.seen}; nor is it clearly more at eps {radii}")


def _not_deterministic(observed: dict[str, Tensor]) -> MaskingFlag:
    change = float(observed["change"].max())
    words = (
        f"between two passes over {len(observed['clean'])} samples, logits change by at most {change:.2g} of the "
        f"largest lead of a class, and {int(observed['relabelled'].sum())} predictions"
    )
    return MaskingFlag(change > UNSTABLE, words)


def _gradients_disagree(observed: dict[str, Tensor]) -> MaskingFlag:
    compared = observed["agreement"][~observed["agreement"].isnan()]
    if len(compared) < _FEWEST:
        few = f"does not apply: only {len(compared)} samples have gradients and changes to compare, of {_FEWEST} needed"
        return MaskingFlag(None, few)
    cosine = float(compared.mean())
    words = (
        f"predicted and measured changes of the margin agree with a cosine of {cosine:.3f} (mean of {len(compared)})"
    )
    return MaskingFlag(cosine < AGREEMENT, words)
