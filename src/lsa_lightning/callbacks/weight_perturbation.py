"""AWP: adversarial training at weights that are perturbed for the worse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.attacks import Attack
from lsa_lightning.attacks.composite import CompositeAttack
from lsa_lightning.attacks.gradients import weight_gradients
from lsa_lightning.attacks.losses import LossFn, WatchingLoss, own_losses
from lsa_lightning.callbacks.adversarial_training import AdversarialTraining
from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.functional import classification_loss
from lsa_lightning.functional.classification import are_class_labels
from lsa_lightning.objectives import Objective
from lsa_lightning.steps.patch import patch_method
from lsa_lightning.utils.checks import integer, number
from lsa_lightning.utils.isolation import scratch_buffers
from lsa_lightning.utils.outputs import LogitsOf


class AdversarialWeightPerturbation(FreshCallback):
    r"""Adds AWP to the :class:`~lsa_lightning.callbacks.AdversarialTraining` (or ATLR) beside it in the Trainer.

    In each step, once the batch is crafted, every weight tensor W of two dimensions or more moves by

    .. math:: v = \gamma\, \frac{\|W\|}{\|\nabla_W J\|} \nabla_W J

    and the step's loss and gradients are taken there. Outside of the step's own passes forward and back the weights are
    the true ones, bit by bit: for the optimizer, for the hooks of other callbacks, such as weight averaging, and in
    every ``state_dict``, as of a checkpoint that a signal asks for in the middle of a step. J is here the
    cross-entropy, or for labels that are no classes the attack's own ``loss_fn``, averaged, plus the objective's own
    term; its passes move no buffer and no random state. Costs one more forward and backward pass.

    Args:
        gamma: size of the perturbation relative to each weight's norm, >= 0; 0.01 for AT and 0.005 for TRADES in the
            reference implementation.
        warmup_epochs: epochs at the start without it, >= 0.

    Raises:
        ValueError: if an argument is outside its range.
        MisconfigurationException: at fit start, unless there is exactly one adversarial training in the Trainer.

    Source: Wu et al. 2020, arXiv 2004.05884, eq. (10) with one step.
    """

    def __init__(self, gamma: float = 0.01, *, warmup_epochs: int = 0) -> None:
        self.gamma = number(self, "gamma", gamma, low=0)
        self.warmup_epochs = integer(self, "warmup_epochs", warmup_epochs, low=0)
        self._weights: list[_PerturbedWeight] = []
        self._trainer: pl.Trainer | None = None
        self._leave: list[Callable[[], None]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the adversarial training."""
        partners = _partners(trainer)
        if len(partners) != 1:
            names = [type(partner).__name__ for partner in partners]
            msg = f"{type(self).__name__} expects one AdversarialTraining or ATLR among the callbacks, got {names}"
            raise MisconfigurationException(msg)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hook into it. Its own patch is on by now, so ours lies outside and knows when the whole step is over."""
        (partner,) = _partners(trainer)
        self._undo()
        self._trainer = trainer
        partner.before_step.append(self.before_step)
        self._leave = [
            partial(_remove, partner.before_step, self.before_step),
            patch_method(pl_module, "training_step", self._step),
            patch_method(pl_module, "backward", self._backward),
            patch_method(pl_module, "state_dict", self._state_dict),
        ]

    def before_step(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> None:
        """Perturb, if it is time to, and no earlier call of the model in this step has done so."""
        trainer = self._trainer
        if self._weights:
            return
        if trainer is not None and trainer.current_epoch >= self.warmup_epochs:
            (partner,) = _partners(trainer)
            logits_of = LogitsOf(model, partner.target.output_fn)
            losses = own_loss_of(partner.attack)
            self.perturb(trainer, model, direction_loss(partner.objective, logits_of, x, x_adv, y, losses))

    def perturb(self, trainer: pl.Trainer, model: nn.Module, loss: Tensor) -> None:
        """Move the weights of ``model`` up the gradient of ``loss``; all processes alike."""
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        gradients = weight_gradients(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                shared = trainer.strategy.reduce(gradient, reduce_op="mean")
                with torch.no_grad():
                    step = shared * (
                        self.gamma * weight.norm() / shared.norm().clamp_min(torch.finfo(shared.dtype).tiny)
                    )
                self._weights.append(_PerturbedWeight(weight, weight.detach() + step))
        self._swap(perturbed=True)
        torch.clear_autocast_cache()  # it still holds the unperturbed weights in low precision

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the adversarial training."""
        self._undo()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave; the weights are back already."""
        self._undo()

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle made in a fit has perturbed and patched nothing.
        return {**super().__getstate__(), "_weights": [], "_trainer": None, "_leave": []}

    def _undo(self) -> None:
        while self._leave:
            self._leave.pop()()

    def _step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The step's passes forward, in which the weights get perturbed."""
        self._weights = []
        try:
            return inner(*args, **kwargs)
        finally:
            self._swap(perturbed=False)

    def _backward(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The pass back, at the same weights as the passes forward."""
        self._swap(perturbed=True)
        try:
            return inner(*args, **kwargs)
        finally:
            self._swap(perturbed=False)
            self._weights = []

    def _state_dict(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The true weights, also in the middle of a step, and still when that goes on."""
        perturbed = bool(self._weights) and self._weights[0].perturbed
        if not perturbed:
            return inner(*args, **kwargs)
        self._swap(perturbed=False)
        try:
            state = inner(*args, **kwargs)
            for name, value in state.items():
                state[name] = value.clone() if isinstance(value, Tensor) else value
            return state
        finally:
            self._swap(perturbed=True)

    def _swap(self, perturbed: bool) -> None:
        for weight in self._weights:
            weight.swap(perturbed)


class _PerturbedWeight:
    """A weight and its other value.

    Values are swapped below autograd's notice: the graph of the step waits for its backward pass, in which the weight
    is what it was in the forward pass.
    """

    def __init__(self, weight: Tensor, other: Tensor) -> None:
        self.weight = weight
        self.other = other
        self.perturbed = False

    def swap(self, perturbed: bool) -> None:
        """Let the weight be the perturbed or the true one."""
        if perturbed != self.perturbed:
            before = self.weight.data.clone()
            self.weight.data.copy_(self.other)
            self.other, self.perturbed = before, perturbed


def own_loss_of(attack: Attack) -> LossFn | None:
    """What an attack increases in place of the cross-entropy, of labels that need be no classes; None: nothing else."""
    if isinstance(attack, CompositeAttack):
        return next(filter(None, map(own_loss_of, attack.attacks.values())), None)
    return None if isinstance(attack.loss_fn, WatchingLoss) else attack.loss_fn


def direction_loss(
    objective: Objective, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, losses: LossFn | None = None
) -> Tensor:
    """The mean loss on the batch that ``objective`` steps on, plus its term, all at the current weights.

    That is the cross-entropy where labels are classes.

    Args:
        objective: the objective.
        model: maps x to logits.
        x: inputs.
        x_adv: their partners.
        y: labels.
        losses: the loss ``(logits, y) -> [N]`` of other labels.
    """
    adversarial = _forward(model, x_adv)
    needs_clean = objective.steps_on_clean or objective.needs_both_outputs
    clean = _forward(model, x) if needs_clean else adversarial
    stepped_on = clean if objective.steps_on_clean else adversarial
    if losses is None or are_class_labels(stepped_on, y):
        loss = classification_loss(stepped_on, y)
    else:
        loss = own_losses(losses, stepped_on, y).mean()
    return loss + objective.term(clean, adversarial, y) if objective.needs_both_outputs else loss


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    """An output that leaves no trace: buffers and random state stay, so the step draws these dropout masks again."""
    devices = [x.device] if x.device.type == "cuda" else []
    with scratch_buffers(model, backward=True), torch.random.fork_rng(devices=devices):
        logits: Tensor = model(x)
    return logits


def _partners(trainer: pl.Trainer) -> list[AdversarialTraining]:
    return [c for c in trainer.callbacks if isinstance(c, AdversarialTraining)]  # type: ignore[attr-defined]


def _remove(hooks: list[Any], hook: Any) -> None:
    if hook in hooks:
        hooks.remove(hook)
