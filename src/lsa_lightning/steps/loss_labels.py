"""Which labels a loss was computed with, told from its gradient: those of the batch, or others that nobody knows of."""

from __future__ import annotations

import torch
from torch import Tensor

from lsa_lightning.functional import is_binary

_AGREEING = 0.5
"""Share of the samples that a loss must pull to their labels; that of an honest classification loss is 1."""

_MIXED = 0.1
"""Mean weight of the second class in a loss's targets from which on they count as mixed. What all other classes have
too, up to this weight, is label smoothing."""

_MOST = 0.9
"""Share of the samples whose targets must look like mixed ones."""

FEWEST = 8
"""Samples with a gradient, below which nothing is said about mixed labels: those of a few look so by chance."""


def has_other_labels(loss: Tensor, logits: Tensor, y: Tensor, *, mixed: bool) -> Tensor | None:
    r"""Whether a loss pulls the samples of a batch to other classes than ``y``, or to several at once.

    For a cross-entropy, averaged over N samples, the gradient with respect to the logits is
    :math:`w_n (p_{nk} - t_{nk}) / N`, which gives back its targets t if the weight w is known. It is taken for 1, and
    estimated: a class whose target is 0 has :math:`w_n = N g_{nk} / p_{nk}`, and others less. Samples without a
    gradient (hard examples alone are learned) have no say.

    The gradients of losses of other kinds (of each class for itself, squared, with a temperature or a margin) fit no
    targets; so mixed labels are told by being exactly that: two classes, and the same of all others. Of three classes
    or two, where that is little, by one weight for all samples too. What is mixed otherwise, as of each class for
    itself or of three samples, is not told.

    Args:
        loss: a scalar, computed from ``logits``.
        logits: ``[N]``, ``[N, 1]`` or ``[N, C]``.
        y: labels ``[N]``.
        mixed: whether to look for several classes at once, as those of mixup.

    Returns:
        A boolean scalar; None where the loss does not depend on ``logits``.
    """
    gradient = (
        torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)[0] if loss.requires_grad else None
    )
    if gradient is None:
        return None
    tolerance = max(1e-4, 2 * torch.finfo(gradient.dtype).eps)
    gradient, logits = gradient.detach().float(), logits.detach().float()
    if is_binary(logits):
        z, g = logits.flatten(), gradient.flatten()
        logits, gradient = torch.stack([torch.zeros_like(z), z], 1), torch.stack([-g, g], 1)
    labels, has_say = y.flatten().long(), (gradient != 0).any(1)
    targets, weight, weighted = _targets(logits.softmax(1), len(logits) * gradient)
    agrees = torch.stack([(-gradient).argmax(1) == labels, targets.argmax(1) == labels]).any(0)
    wrong = (agrees & has_say).sum() < _AGREEING * has_say.sum()
    if mixed:
        wrong = wrong | _are_mixed(targets, labels, has_say, tolerance)
        told = _are_mixed(weighted, labels, has_say, tolerance)
        if weighted.shape[1] == 3:
            told = told & _is_one_number(weight, has_say, 10 * tolerance * weight.where(has_say, 0).amax())
        wrong = wrong | told
    return wrong


def _targets(probabilities: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The targets ``[N, C]`` of a cross-entropy with this ``gradient`` of each sample, and with weights ``[N]``."""
    tiny = torch.finfo(probabilities.dtype).tiny
    weight = (gradient / probabilities.clamp_min(tiny)).where(probabilities > tiny, 0).amax(dim=1, keepdim=True)
    if probabilities.shape[1] == 2:  # of two classes, both may be targets, and any weight would fit: one for all
        weight = weight.amax().expand_as(weight)
    return probabilities - gradient, weight.squeeze(1), probabilities - gradient / weight.clamp_min(tiny)


def _are_mixed(targets: Tensor, labels: Tensor, has_say: Tensor, tolerance: float) -> Tensor:
    """Whether the targets are two classes of a sample, or one, and what label smoothing gives to all."""
    _, second, *others = targets.topk(min(3, targets.shape[1]), dim=1).values.T
    if others:
        least = targets.amin(1)
        fits = (others[0] - least <= tolerance) & _is_one_number(least, has_say, tolerance)
    else:  # any targets are two classes: mixed ones are of both labels, and have one weight
        least = second.where(has_say, torch.inf).amin().expand_as(second)
        mixed = has_say & (second - least > tolerance)
        of_both = (mixed & (labels == 0)).any() & (mixed & (labels == 1)).any()
        fits = _is_one_number(second, mixed, tolerance) & of_both
    fits = fits & has_say & ((targets.sum(1) - 1).abs() <= tolerance) & (least >= -tolerance) & (least <= _MIXED)
    weight = (second - least).where(fits, 0).sum()
    told: Tensor = (fits.sum() >= _MOST * has_say.sum()) & (weight > _MIXED * has_say.sum())
    return told & (has_say.sum() >= FEWEST)


def _is_one_number(values: Tensor, where: Tensor, tolerance: float | Tensor) -> Tensor:
    spread: Tensor = values.where(where, -torch.inf).amax() - values.where(where, torch.inf).amin()
    return spread <= tolerance
