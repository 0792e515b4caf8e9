"""Which labels a loss was computed with, told from its gradient: those of the batch, or others that nobody knows of."""

from __future__ import annotations

import torch
from torch import Tensor

from lsa_lightning.functional import is_binary

_AGREEING = 0.5
"""Share of the samples that a loss must pull to their labels; that of an honest classification loss is 1."""

_MIXED = 0.1
"""Mean weight of the second class in a loss's targets from which on they count as mixed. What the smallest class has
too, up to this weight, is label smoothing."""


def has_other_labels(loss: Tensor, logits: Tensor, y: Tensor, *, mixed: bool) -> Tensor | None:
    r"""Whether a loss pulls the samples of a batch to other classes than ``y``, or to several at once.

    For a cross-entropy, averaged over N samples, the gradient with respect to the logits is
    :math:`w_n (p_{nk} - t_{nk}) / N`, which gives back its targets t if the weight w is known. It is taken for 1, and
    estimated: a class whose target is 0 has :math:`w_n = N g_{nk} / p_{nk}`, and others less. Only what holds with
    neither weight counts against the loss. Samples without a gradient (hard examples alone are learned) have no say.

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
    gradient, logits = gradient.detach().float(), logits.detach().float()
    if is_binary(logits):
        z, g = logits.flatten(), gradient.flatten()
        logits, gradient = torch.stack([torch.zeros_like(z), z], 1), torch.stack([-g, g], 1)
    labels, has_say = y.flatten().long(), (gradient != 0).any(1)
    targets = _targets(logits.softmax(1), len(logits) * gradient)
    agrees = torch.stack([(-gradient).argmax(1) == labels, targets[0].argmax(1) == labels]).any(0)
    wrong = (agrees & has_say).sum() < _AGREEING * has_say.sum()
    if mixed:
        wrong = wrong | torch.stack([_is_mixed(each, has_say) for each in targets]).all()
    return wrong


def _targets(probabilities: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The targets ``[N, C]`` of a cross-entropy with this ``gradient`` of each sample, of weight 1 and of another."""
    tiny = torch.finfo(probabilities.dtype).tiny
    weight = (gradient / probabilities.clamp_min(tiny)).where(probabilities > tiny, 0).amax(dim=1, keepdim=True)
    if probabilities.shape[1] == 2:  # of two classes, both may be targets, and any weight would fit: one for all
        weight = weight.amax().expand_as(weight)
    return probabilities - gradient, probabilities - gradient / weight.clamp_min(tiny)


def _is_mixed(targets: Tensor, has_say: Tensor) -> Tensor:
    second = (targets.topk(2, dim=1).values[:, 1] - targets.amin(1).clamp(0, _MIXED)).clamp_min(0)
    return second.where(has_say, 0).sum() > _MIXED * has_say.sum()
