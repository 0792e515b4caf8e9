"""What is attacked: the part of a LightningModule that maps x to logits, the x of a batch, and the space of its x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from typing_extensions import Self

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.utils.batch import BatchFn, read_batch, read_samples
from lsa_lightning.utils.checks import function, instance, or_none, text
from lsa_lightning.utils.outputs import OutputFn, read_logits


@dataclass(frozen=True)
class Target:
    """Where a callback finds the model, and the inputs and labels, that its attack is for.

    Args:
        backbone: name of the submodule that maps x to logits; None: the LightningModule's forward.
        batch_fn: ``batch -> (x, y)``, returning the batch's own tensors.
        input_space: the space of x, if batches are normalised; ``eps`` and ``bounds`` are then in pixels.
        output_fn: ``output -> logits``, for a model that returns something else than
            :func:`~lsa_lightning.utils.outputs.read_logits` reads.

    Raises:
        ValueError: if ``input_space`` is not an :class:`~lsa_lightning.attacks.InputSpace` or None.

    Example:
        >>> import torch
        >>> x, y = Target().unpack({"image": torch.zeros(2, 3), "label": torch.zeros(2)})
        >>> x.shape
        torch.Size([2, 3])
    """

    backbone: str | None = None
    batch_fn: BatchFn = read_batch
    input_space: InputSpace | None = None
    output_fn: OutputFn | None = None

    def __post_init__(self) -> None:
        or_none(text, self, "backbone", self.backbone)
        function(self, "batch_fn", self.batch_fn)
        or_none(instance, self, "input_space", self.input_space, InputSpace, what="an InputSpace(mean, std)")
        or_none(function, self, "output_fn", self.output_fn)

    @classmethod
    def of(cls, target: Self | None, **keywords: Any) -> Self:
        """``target``, or one made of a callback's own keywords, of which those that are None were not given.

        Args:
            target: a target, or None.
            keywords: arguments of this class; here ``input_space`` may be a pair ``(mean, std)``.

        Raises:
            ValueError: if both are given.
        """
        given = {name: value for name, value in keywords.items() if value is not None}
        if target is not None and given:
            msg = f"expected either target or {', '.join(keywords)}, got target and {', '.join(given)}"
            raise ValueError(msg)
        space = given.get("input_space")
        if isinstance(space, tuple | list) and len(space) == 2:
            given["input_space"] = InputSpace(*space)
        return cls(**given) if target is None else instance("Target", "target", target, cls)

    def model(self, module: pl.LightningModule) -> nn.Module:
        """The submodule that is attacked, or ``module`` itself.

        Raises:
            MisconfigurationException: if there is none of that name, or ``module`` has no forward; the message lists
                the submodules.
        """
        submodules: dict[str, nn.Module] = dict(module.named_modules())
        exist = f"these exist: {', '.join(filter(None, submodules))}"
        if self.backbone is None and type(module).forward is pl.LightningModule.forward:
            name = type(module).__name__
            msg = f"expected {name} to have a forward, or backbone to name the submodule to attack; {exist}"
            raise MisconfigurationException(msg)
        if self.backbone is None:
            return module
        if self.backbone not in submodules or not self.backbone:
            msg = f"expected backbone to name a submodule, got {self.backbone!r}; {exist}"
            raise MisconfigurationException(msg)
        return submodules[self.backbone]

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The inputs and the labels of ``batch``.

        Raises:
            MisconfigurationException: if ``batch_fn`` cannot read it, or returns something else than two tensors.
        """
        try:
            return read_samples(self.batch_fn, batch)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def in_space(self, attack: Attack) -> Attack:
        """``attack``, whose eps and bounds are in pixels, for inputs and outputs as batches and the model have them."""
        if self.output_fn is not None:
            attack = AttackOnLogits(attack, self.output_fn)
        return attack if self.input_space is None else self.input_space(attack)

    def logits(self, output: Any) -> Tensor:
        """The logits in what the model returned.

        Raises:
            MisconfigurationException: if there are none.
        """
        try:
            return read_logits(output if self.output_fn is None else self.output_fn(output))
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
