r"""What attacks increase or decrease: per-sample functions of logits and labels.

Logits are ``[N]`` or ``[N, 1]`` (one logit, classes 0 and 1) or ``[N, C]``; values are computed in float32 at least.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lsa_lightning.functional import classification_loss, is_binary

_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, ``[N]``."""
    return classification_loss(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    r"""By how much the label's logit leads, :math:`z_y - \max_{i \neq y} z_i`; negative where misclassified.

    Args:
        logits: one logit or ``[N, C]``, C >= 2.
        labels: ``[N]``.

    Returns:
        ``[N]``.

    Example:
        >>> margin(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0]))
        tensor([-2.])
    """
    logits, index = class_logits(logits), labels.view(-1, 1).long()
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index).squeeze(1) - others.amax(dim=1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Difference of logits ratio, which does not change when the logits are shifted or scaled.

    .. math:: DLR = -\frac{z_y - \max_{i \neq y} z_i}{z_{\pi_1} - z_{\pi_3}}

    where :math:`\pi` sorts the logits in falling order.

    Args:
        logits: ``[N, C]``, C >= 3.
        labels: ``[N]``.

    Returns:
        ``[N]``; in [-1, 0] where the sample is classified correctly, else above, without an upper bound.

    Example:
        >>> dlr(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([1]))
        tensor([-0.6667])

    Source: Croce & Hein 2020, arXiv 2003.01690, eq. (6).
    """
    top = class_logits(logits).topk(3, dim=1).values
    return -margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    r"""DLR towards one class, :math:`-(z_y - z_t) / (z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2)`.

    Args:
        logits: ``[N, C]``, C >= 4.
        labels: ``[N]``.
        targets: the class t of each sample, ``[N]``.

    Returns:
        ``[N]``; positive where the target's logit exceeds the label's.

    Example:
        >>> targeted_dlr(torch.tensor([[4.0, 2.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([2]))
        tensor([-1.])

    Source: Croce & Hein 2020, arXiv 2003.01690, eq. (7).
    """
    top = class_logits(logits).topk(4, dim=1).values
    return lead(logits, labels, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def lead(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """By how much the logits of ``classes`` ``[N]`` exceed those of the labels, :math:`z_t - z_y`, ``[N]``.

    Example:
        >>> lead(torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([0]), torch.tensor([2]))
        tensor([-3.])
    """
    pair = class_logits(logits).gather(1, torch.stack([labels.flatten().long(), classes], dim=1))
    return pair[:, 1] - pair[:, 0]


def likely_targets(logits: Tensor, labels: Tensor, n: int) -> list[Tensor]:
    """The ``n`` most likely wrong classes of each sample, ``[N]`` each, or all of them if there are fewer.

    Example:
        >>> likely_targets(torch.tensor([[4.0, 2.0, 3.0]]), torch.tensor([0]), n=9)
        [tensor([2]), tensor([1])]
    """
    others = class_logits(logits).scatter(1, labels.view(-1, 1).long(), -torch.inf)
    return list(others.topk(min(n, others.shape[1] - 1), dim=1).indices.unbind(dim=1))


def class_logits(logits: Tensor) -> Tensor:
    """One logit per class, ``[N, C]``, in float32 at least; one logit z becomes (0, z), of the same probabilities.

    Example:
        >>> class_logits(torch.tensor([[-2.0]]))
        tensor([[ 0., -2.]])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not is_binary(logits):
        return logits
    return torch.stack([torch.zeros_like(logits.flatten()), logits.flatten()], dim=1)


LossFn: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(logits, labels) -> [N]``: a loss of one's own to increase, for outputs and labels of any shape."""


class WatchingLoss(ABC):
    """A loss of more than logits and labels, for which an attack watches the model while it runs.

    It goes wherever an attack takes a ``loss_fn``. What the attack then takes for the model is what :meth:`watch`
    gives, and what it takes for logits is that one's output, ``[N, ...]`` with a row per sample.
    """

    @property
    @abstractmethod
    def needs_classes(self) -> bool:
        """Whether outputs must be scores of classes, and labels classes."""

    @abstractmethod
    def watch(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        """``model``, about to be attacked at the clean inputs ``x``, with outputs that hold all that is needed."""

    @abstractmethod
    def logits(self, output: Tensor) -> Tensor:
        """The logits in such an output."""

    @abstractmethod
    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """The losses, ``[N]``."""


def needs_classes(loss_fn: LossFn | None) -> bool:
    """Whether a loss is about classes: the cross-entropy is (None), and one of one's own need not be."""
    return loss_fn.needs_classes if isinstance(loss_fn, WatchingLoss) else loss_fn is None


def own_losses(loss_fn: LossFn, logits: Tensor, labels: Tensor) -> Tensor:
    """What ``loss_fn`` gives, ``[N]``, in float32 at least.

    Raises:
        ValueError: if that is not one number per sample.

    Example:
        >>> own_losses(lambda output, y: (output - y).square().sum(dim=1), torch.zeros(2, 3), torch.ones(2, 3))
        tensor([3., 3.])
    """
    losses = loss_fn(logits, labels)
    if not isinstance(losses, Tensor) or losses.shape != logits.shape[:1]:
        got = tuple(losses.shape) if isinstance(losses, Tensor) else repr(losses)
        msg = f"expected loss_fn to return a loss per sample, shape [{len(logits)}] (reduction='none'), got {got}"
        raise ValueError(msg)
    return losses.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {"ce": (cross_entropy, 2), "dlr": (dlr, 3)}
"""Losses to increase, by name, each with the fewest classes that it is defined for."""
