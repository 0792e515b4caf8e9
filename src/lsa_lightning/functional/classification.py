"""Logits, labels and probabilities of classifiers with one logit or one per class."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def classification_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of a classifier with one logit (binary, labels 0/1 of any dtype) or with one logit per class.

    Computed from the differences to the label's logit, so that the gradient does not vanish where the predicted
    probability of the label rounds to 1: a gradient of exactly 0 would stop an attack on a confident network.

    Args:
        logits: ``[N]`` or ``[N, 1]`` (binary), or ``[N, C]``.
        labels: ``[N]`` (or ``[N, 1]`` in the binary case).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``[N]`` for ``"none"``; computed in float32 at least.

    Example:
        >>> classification_loss(torch.zeros(2, 1), torch.tensor([0, 1]))
        tensor(0.6931)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_binary(logits):
        z, y = logits.flatten(), labels.flatten().to(logits)
        losses = y * F.softplus(-z) + (1 - y) * F.softplus(z)
    else:
        index = labels.long().unsqueeze(1)
        others = (logits - logits.gather(1, index)).scatter(1, index, -torch.inf)
        losses = F.softplus(others.logsumexp(dim=1))
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def is_binary(logits: Tensor) -> bool:
    """Whether ``logits`` (``[N]``, ``[N, 1]`` or ``[N, C]``) hold one logit per sample."""
    return logits.ndim == 1 or logits.shape[-1] == 1


def predicted_labels(logits: Tensor) -> Tensor:
    """The predicted class of each sample, int64 of shape ``[N]``; logit > 0 is class 1 in the binary case.

    Example:
        >>> predicted_labels(torch.tensor([[-1.0], [2.0]]))
        tensor([0, 1])
    """
    return (logits.flatten() > 0).long() if is_binary(logits) else logits.argmax(dim=1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Class log-probabilities ``[N, C]``; one logit z becomes the two classes log sigmoid(-z) and log sigmoid(z).

    Example:
        >>> log_probabilities(torch.zeros(1, 1)).exp()
        tensor([[0.5000, 0.5000]])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_binary(logits):
        z = logits.flatten()
        return torch.stack([F.logsigmoid(-z), F.logsigmoid(z)], dim=1)
    return F.log_softmax(logits, dim=1)


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    r"""Per-sample :math:`KL(p \,\|\, q)` with p from ``target_logits`` and q from ``logits``, shape ``[N]``.

    Both sides are log-probabilities, so a probability that underflows to 0 gives 0 and not NaN.

    Example:
        >>> kl_divergence(torch.tensor([[200.0, 0.0]]), torch.tensor([[200.0, 0.0]]))
        tensor([0.])
    """
    p, q = log_probabilities(target_logits), log_probabilities(logits)
    divergence: Tensor = F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)
    return divergence
