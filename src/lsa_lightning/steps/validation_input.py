"""What ``validation_step`` feeds to the model."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lsa_lightning.steps.first_look import input_of_step
from lsa_lightning.steps.model_call import ModelCall, bound
from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.target import Target
from lsa_lightning.utils.isolation import evaluating


class ValidationInput:
    """What ``validation_step`` feeds to the model: the step of each batch is run up to the call of the model.

    It runs in eval mode, and neither what it logs nor what it gives the module's metrics counts. Where it calls no
    model itself, but other modules, only the first batch is looked at. A batch that it does not give to the model is
    passed over if it gives it others, else taken as it is.

    Args:
        module: the module that is validated.
        target: what is attacked.
    """

    def __init__(self, module: pl.LightningModule, target: Target) -> None:
        self._module = module
        self._model = target.model(module)
        self._name = target.backbone or type(module).__name__
        self._call: ModelCall | None = None
        self._called = self._taken_as_it_is = False
        self._looks = is_overridden("validation_step", module)

    @property
    def model(self) -> nn.Module:
        """The model as a function of its input alone, with the other arguments that the last batch's step gives it."""
        if self._call is None or self._call.is_plain:
            return self._model
        return bound(self._model, self._arguments)

    def of(self, batch: Any, x: Tensor, *numbers: int) -> Tensor | None:
        """What the model is given for ``batch``.

        Args:
            batch: a batch that no step has seen, as it may change it.
            x: its inputs.
            numbers: the further arguments of the hooks of validation: ``batch_idx``, and ``dataloader_idx`` where
                there are several dataloaders.

        Returns:
            The model's input ``[N, ...]``; None: the step skips this batch.

        Raises:
            MisconfigurationException: see :func:`input_of_step`; or if the step skipped earlier batches, which were
                taken as they are, and changes this one.
        """
        if not self._looks:
            return x

        def step(batch: Any) -> Any:
            takes_numbers = is_param_in_hook_signature(self._module.validation_step, "batch_idx", min_args=2)
            return self._module.validation_step(batch, *(numbers if takes_numbers else numbers[1:]))

        # Not in inference mode, whose tensors no gradient can be taken through.
        with evaluating(self._module), torch.inference_mode(False), torch.no_grad(), off_the_record(self._module):
            where = {"batch": batch, "x": x, "whole": self._model}
            seen = input_of_step(self._model, self._name, step, step_name="validation_step", **where)
        if self._called and not (seen.called or seen.first_layer is not None):
            return None
        self._call, self._looks = seen.call, self._called or seen.called or seen.idle
        self._called = self._called or seen.called
        self._taken_as_it_is = self._taken_as_it_is or seen.idle
        if self._call is not None and self._taken_as_it_is:
            msg = (
                f"validation_step gives {self._name}, which is attacked, something else than x, and skipped batches "
                "before, which were measured as they are: expected it to give the model the first batch of a "
                "validation run too"
            )
            raise MisconfigurationException(msg)
        return x if self._call is None else self._call.x.detach()

    def _arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((x,), {}) if self._call is None else self._call.arguments(x)
