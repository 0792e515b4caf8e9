r"""How clean and adversarial outputs become the base loss J of adversarial training.

J is what the user's own ``training_step`` returns, on the adversarial or on the clean batch, plus a term of the two
outputs. An objective of your own is one class: subclass :class:`Objective`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lsa_lightning.functional import kl_divergence, log_probabilities
from lsa_lightning.utils.checks import number


class Objective(ABC):
    """The base loss J."""

    steps_on_clean: bool = False
    """Whether the user's ``training_step`` gets the clean batch; the adversarial one if False."""

    needs_both_outputs: bool = True
    """Whether :meth:`term` is used, for which the model also runs on the other of the two batches."""

    needs_classes: bool = False
    """Whether the outputs must be scores of classes, and labels classes, whatever the attack asks for."""

    @abstractmethod
    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        """What is added to the loss of ``training_step``: a scalar.

        Args:
            clean_logits: f(x), ``[N]``, ``[N, 1]`` or ``[N, C]``.
            adversarial_logits: f(x^), the same shape.
            y: labels, ``[N]``.
        """


class AT(Objective):
    r"""Adversarial training: the user's loss on the adversarial batch, nothing added.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """

    needs_both_outputs = False

    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        """Zero; not called in training, where the clean output is not computed."""
        return clean_logits.new_zeros(())

    def __repr__(self) -> str:
        return "AT()"


class TRADES(Objective):
    r"""TRADES: the user's loss on the clean batch plus a divergence between the two predictions.

    .. math:: J = CE(f(x), y) + \frac{\beta}{N} \sum_n KL(p(x_n) \,\|\, p(\hat x_n))

    The gradient flows through both predictions. With one logit, KL is the two-class (Bernoulli) one. Meant for
    :class:`~lsa_lightning.attacks.TPGD`; any attack works. The adversarial pass draws the same dropout masks as the
    clean one, and both update BatchNorm's statistics.

    Args:
        beta: weight >= 0 of the divergence; 6 on CIFAR-10, 1 on MNIST in the reference implementation.

    Raises:
        ValueError: if ``beta`` is negative or not finite.

    Example:
        >>> import torch
        >>> TRADES(beta=6.0).term(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.)

    Source: Zhang et al. 2019, arXiv 1901.08573, eq. (5).
    """

    needs_classes = True
    steps_on_clean = True

    def __init__(self, beta: float = 6.0) -> None:
        self.beta = number(self, "beta", beta, low=0)

    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        """``beta`` times the mean KL divergence."""
        return self.beta * kl_divergence(clean_logits, adversarial_logits).mean()

    def __repr__(self) -> str:
        return f"TRADES(beta={self.beta:g})"


class MART(Objective):
    r"""MART: misclassification-aware adversarial training.

    .. math::
        J = CE(f(\hat x), y) + \frac1N \sum_n \Big[ -\log\big(1 - \max_{k \ne y_n} p_k(\hat x_n)\big)
            + \beta\, KL(p(x_n) \,\|\, p(\hat x_n))\, (1 - p_{y_n}(x_n)) \Big]

    The first two terms are the boosted cross-entropy (BCE), of which the user's loss on the adversarial batch is the
    first; the third looks most at samples that the model gets wrong. The gradient flows through both predictions. With
    one logit, p are the two classes' probabilities. Both passes update BatchNorm's statistics.

    Args:
        beta: weight >= 0 of the divergence; 6 in the reference implementation, 5 for larger networks.

    Raises:
        ValueError: if ``beta`` is negative or not finite.

    Example:
        >>> import torch
        >>> MART(beta=5.0).term(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples", eq. (11).
    """

    needs_classes = True

    def __init__(self, beta: float = 6.0) -> None:
        self.beta = number(self, "beta", beta, low=0)

    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        """The margin part of BCE, and ``beta`` times the weighted mean KL divergence."""
        wrong = 1 - log_probabilities(clean_logits).gather(1, y.view(-1, 1).long()).squeeze(1).exp()
        divergence = kl_divergence(clean_logits, adversarial_logits)
        return (_margin_term(adversarial_logits, y) + self.beta * divergence * wrong).mean()

    def __repr__(self) -> str:
        return f"MART(beta={self.beta:g})"


def _margin_term(logits: Tensor, y: Tensor) -> Tensor:
    """``-log(1 - p_k)`` of each sample, k the most likely wrong class, ``[N]``; exact where p_k rounds to 1."""
    log_p = log_probabilities(logits)
    rival = log_p.detach().scatter(1, y.view(-1, 1).long(), -torch.inf).argmax(dim=1, keepdim=True)
    return -log_p.scatter(1, rival, -torch.inf).logsumexp(dim=1)
