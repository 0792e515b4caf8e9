"""Early stop against catastrophic overfitting, to which one-step attacks such as AT-FAST are prone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.callbacks.own_keys import log_own
from lsa_lightning.evaluation import correct
from lsa_lightning.steps.first_look import input_of_step
from lsa_lightning.steps.kept_state import parameters_put_back
from lsa_lightning.steps.model_call import bound
from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.patch import unpatched
from lsa_lightning.steps.target import Target
from lsa_lightning.utils.batch import BatchFn
from lsa_lightning.utils.checks import instance, number
from lsa_lightning.utils.outputs import OutputFn


class CatastrophicOverfittingStop(FreshCallback):
    """Stops when robust accuracy collapses from one epoch to the next, and puts the last good weights back.

    At the end of each epoch, before its validation run, ``attack`` is run on the epoch's first training batch, as
    ``training_step`` gives it to the model. If the accuracy is by more than ``drop`` lower than an epoch ago, the model
    gets the weights of that epoch's end and training stops (after Lightning's own ``min_epochs``); else the current
    weights become the last good ones, and so do the averages of Lightning's weight averaging. They are kept in the
    callback's state, so checkpoints hold them too. Logs ``train/acc_first_batch``, in [0, 1].

    Args:
        attack: a multi-step attack, usually PGD with 5 steps at the training's eps.
        drop: largest fall in accuracy that is accepted, in [0, 1].
        input_space: ``(mean, std)`` or an :class:`~lsa_lightning.attacks.InputSpace` if batches are normalised; ``eps``
            and ``bounds`` are then in pixels.
        batch_fn: ``batch -> (x, y)``; default :func:`~lsa_lightning.utils.batch.read_batch`.
        backbone: name of the submodule that maps x to logits; None: the LightningModule's forward.
        output_fn: ``output -> logits``, for a model that returns neither a tensor nor one named ``logits``.
        target: these four in one :class:`~lsa_lightning.callbacks.Target`, instead of them.

    Attributes:
        accuracy: the last good epoch's accuracy, or None before the first epoch's end.
        stopped_epoch: the epoch in which it stopped, or None.

    Raises:
        ValueError: if ``drop`` is outside [0, 1].

    Source: Wong et al. 2020, arXiv 2001.03994, section 5.4.
    """

    of_each_process = ("batch", "attack")

    def __init__(
        self,
        attack: Attack,
        *,
        drop: float = 0.2,
        input_space: InputSpace | tuple[Any, Any] | None = None,
        batch_fn: BatchFn | None = None,
        backbone: str | None = None,
        output_fn: OutputFn | None = None,
        target: Target | None = None,
    ) -> None:
        instance(self, "attack", attack, Attack, what="an Attack, such as PGD(eps=8/255)")
        self.target = Target.of(
            target, input_space=input_space, batch_fn=batch_fn, backbone=backbone, output_fn=output_fn
        )
        self.attack = self.target.in_space(attack)
        self.drop = number(self, "drop", drop, low=0, high=1)
        self._forget()
        self.start_fit()

    def start_afresh(self) -> None:
        """No epoch has been measured, and no weights are good yet."""
        self.attack.restart()
        self._forget()

    def start_fit(self) -> None:
        """No batch of this epoch is kept."""
        self._batch: Any = None
        self._kept = -1

    def _forget(self) -> None:
        self.accuracy: float | None = None
        self.stopped_epoch: int | None = None
        self._good: dict[str, Any] = {}
        self._good_averages: list[dict[str, Any]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the epoch's first batch, of which a step may change its own."""
        if self._batch is None:
            self._batch, self._kept = apply_to_collection(batch, Tensor, torch.clone), batch_idx

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last batch: measure, then keep the weights or go back."""
        if batch_idx == self._kept and pl_module.automatic_optimization and not outputs:
            self._batch = None  # which the step skipped: the next one is the first
        if not trainer.is_last_batch or self._batch is None:
            return
        accuracy = self._measure(trainer, pl_module, self._batch)
        self._batch = None
        log_own(self, pl_module, "train/acc_first_batch", accuracy, on_step=False, on_epoch=True)
        if self.accuracy is not None and self.accuracy - accuracy > self.drop:
            self._go_back(trainer, pl_module, accuracy)
        else:
            self.accuracy = accuracy
            self._good = _copy_of(pl_module)
            self._good_averages = [_copy_of(average) for average in _averages(trainer)]

    def state_dict(self) -> dict[str, Any]:
        """The last good weights and their accuracy, and in the middle of an epoch its first batch."""
        return {
            "batch": self._batch,
            "accuracy": self.accuracy,
            "stopped_epoch": self.stopped_epoch,
            "good": self._good,
            "good_averages": self._good_averages,
            "attack": self.attack.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the checkpoint's."""
        self.accuracy, self.stopped_epoch = state_dict["accuracy"], state_dict["stopped_epoch"]
        self._good = state_dict["good"]
        self._good_averages = state_dict.get("good_averages", [])
        own = self.own_part(state_dict)
        self._batch = own.get("batch")  # before 0.2 it was not kept
        self.attack.load_state_dict(own.get("attack", {}))

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> float:
        """Accuracy under the attack on the first batch, over all processes."""
        with trainer.precision_plugin.forward_context(), off_the_record(pl_module):
            model, x, y = self._given(pl_module, batch)
            hits = correct(model, self.attack(model, x, y), y, self.target.output_fn)
        return float(trainer.strategy.reduce(hits.float().mean(), reduce_op="mean"))

    def _given(self, pl_module: pl.LightningModule, batch: Any) -> tuple[nn.Module, Tensor, Tensor]:
        """The model as a function of its input, what the user's step gives it, and the labels."""
        step, (x, y) = unpatched(pl_module.training_step), self.target.unpack(batch)
        numbers = (0,) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else ()
        model, name = self.target.model(pl_module), self.target.backbone or type(pl_module).__name__
        with _no_optimization(pl_module, name), parameters_put_back(pl_module):
            call = input_of_step(model, name, lambda batch: step(batch, *numbers), batch, x, whole=pl_module).call
        return (model, x, y) if call is None else (bound(model, call.arguments), call.x.detach(), y)

    def _go_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule, accuracy: float) -> None:
        pl_module.load_state_dict(self._good, strict=pl_module.strict_loading)
        for average, good in zip(_averages(trainer), self._good_averages, strict=False):
            average.load_state_dict(good)
        self.stopped_epoch = trainer.current_epoch
        trainer.should_stop = True
        rank_zero_info(
            f"Catastrophic overfitting in epoch {trainer.current_epoch}: accuracy under {self.attack!r} on the epoch's "
            f"first batch fell from {self.accuracy:.3f} to {accuracy:.3f}. Back to the weights of the epoch before."
        )


@contextmanager
def _no_optimization(module: pl.LightningModule, name: str) -> Iterator[None]:
    """A step with manual optimization that is begun once more ends, with an error, before it changes a weight."""

    def refuse(*_: object, **__: object) -> NoReturn:
        msg = (
            f"training_step, which optimises by itself, does so before it calls {name}, which is attacked: name the "
            "module that is given the inputs by backbone=..."
        )
        raise MisconfigurationException(msg)

    own = {key: value for key, value in vars(module).items() if key == "manual_backward"}
    if not module.automatic_optimization:
        vars(module)["manual_backward"] = refuse
    try:
        yield
    finally:
        vars(module).pop("manual_backward", None)
        vars(module).update(own)


def _averages(trainer: pl.Trainer) -> list[nn.Module]:
    """What Lightning's callbacks average the weights in, which at the end of training takes the module's place."""
    held = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [average for average in held if isinstance(average, nn.Module)]


def _copy_of(module: nn.Module) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in module.state_dict().items()
    }
