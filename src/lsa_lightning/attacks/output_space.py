"""Attacking models whose output holds logits that no attack finds by itself."""

from __future__ import annotations

from torch import Tensor

from lsa_lightning.attacks.balls import Ball
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.attacks.composite import CompositeAttack
from lsa_lightning.utils.outputs import LogitsOf, OutputFn


class AttackOnLogits(CompositeAttack):
    """An attack on what ``output_fn`` reads out of a model's output.

    Args:
        attack: the attack; its eps, norm and bounds are also those of this one.
        output_fn: ``output -> logits``.

    Example:
        >>> import torch
        >>> from lsa_lightning.attacks import FGSM
        >>> attack = AttackOnLogits(FGSM(eps=0.1), output_fn=lambda output: output["classes"])
        >>> net = torch.nn.Linear(2, 3)
        >>> attack(lambda x: {"classes": net(x)}, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).shape
        torch.Size([4, 2])
    """

    def __init__(self, attack: Attack, output_fn: OutputFn) -> None:
        super().__init__(attack.eps, norm=attack.norm, bounds=attack.bounds, seed=attack.seed)
        self.attacks = {"logits": attack}
        self.output_fn = output_fn

    @property
    def attack(self) -> Attack:
        """The attack on logits."""
        return self.attacks["logits"]

    @property
    def min_classes(self) -> int:
        """Those of the attack on logits."""
        return self.attack.min_classes

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Perturb ``x``; see :meth:`Attack.__call__`."""
        return self.attack(LogitsOf(model, self.output_fn), x, y)

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """What the attack does with a model whose output is logits already."""
        return self.attack.perturb(model, x, y, ball)

    def __repr__(self) -> str:
        return repr(self.attack)
