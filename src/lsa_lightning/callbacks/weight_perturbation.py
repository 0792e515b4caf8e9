"""AWP: adversarial training at weights that are perturbed for the worse."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.attacks.gradients import weight_gradients
from lsa_lightning.callbacks.adversarial_training import AdversarialTraining, BeforeStep
from lsa_lightning.functional import classification_loss
from lsa_lightning.objectives import Objective
from lsa_lightning.utils.isolation import scratch_buffers
from lsa_lightning.utils.outputs import LogitsOf


class AdversarialWeightPerturbation(pl.Callback):
    r"""Adds AWP to the :class:`~lsa_lightning.callbacks.AdversarialTraining` (or ATLR) beside it in the Trainer.

    In each step, once the batch is crafted, every weight tensor W of two dimensions or more moves by

    .. math:: v = \gamma\, \frac{\|W\|}{\|\nabla_W J\|} \nabla_W J

    the step's loss and gradients are taken there, and after the backward pass the weights come back, bit by bit, so
    that the optimizer applies those gradients to the unperturbed ones. J is here the cross-entropy plus the objective's
    own term; its passes move no buffer and no random state. Costs one more forward and backward pass.

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
        if not (math.isfinite(gamma) and gamma >= 0) or warmup_epochs < 0:
            msg = f"expected a finite gamma >= 0 and warmup_epochs >= 0, got {gamma} and {warmup_epochs}"
            raise ValueError(msg)
        self.gamma = float(gamma)
        self.warmup_epochs = warmup_epochs
        self._originals: list[tuple[Tensor, Tensor]] = []
        self._leave: Callable[[], None] = _nothing

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hook into the adversarial training."""
        partners = [c for c in trainer.callbacks if isinstance(c, AdversarialTraining)]  # type: ignore[attr-defined]
        if len(partners) != 1:
            names = [type(partner).__name__ for partner in partners]
            msg = f"{type(self).__name__} expects one AdversarialTraining or ATLR among the callbacks, got {names}"
            raise MisconfigurationException(msg)
        partner = partners[0]

        def before_step(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> None:
            if trainer.current_epoch >= self.warmup_epochs:
                self.perturb(
                    trainer,
                    model,
                    direction_loss(partner.objective, LogitsOf(model, partner.target.output_fn), x, x_adv, y),
                )

        self._leave()
        self._leave = _joined(partner.before_step, before_step)

    def perturb(self, trainer: pl.Trainer, model: nn.Module, loss: Tensor) -> None:
        """Move the weights of ``model`` up the gradient of ``loss``; all processes alike."""
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        gradients = weight_gradients(loss, weights)
        self._originals = [(weight, weight.detach().clone()) for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    shared = trainer.strategy.reduce(gradient, reduce_op="mean")
                    weight.add_(
                        shared * (self.gamma * weight.norm() / shared.norm().clamp_min(torch.finfo(shared.dtype).tiny))
                    )
        torch.clear_autocast_cache()  # it still holds the unperturbed weights in low precision

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        self._restore()

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        """Put the weights back where ``training_step`` skipped the batch, so that there was no backward pass."""
        self._restore()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the adversarial training."""
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the weights back, and leave."""
        self._restore()
        self._leave()

    def _restore(self) -> None:
        with torch.no_grad():
            while self._originals:
                weight, original = self._originals.pop()
                weight.copy_(original)


def direction_loss(objective: Objective, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy on the batch that ``objective`` steps on, plus its term, all at the current weights."""
    adversarial = _forward(model, x_adv)
    needs_clean = objective.steps_on_clean or objective.needs_both_outputs
    clean = _forward(model, x) if needs_clean else adversarial
    loss = classification_loss(clean if objective.steps_on_clean else adversarial, y)
    return loss + objective.term(clean, adversarial, y) if objective.needs_both_outputs else loss


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    """An output that leaves no trace: buffers and random state stay, so the step draws these dropout masks again."""
    devices = [x.device] if x.device.type == "cuda" else []
    with scratch_buffers(model), torch.random.fork_rng(devices=devices):
        logits: Tensor = model(x)
    return logits


def _joined(hooks: list[BeforeStep], hook: BeforeStep) -> Callable[[], None]:
    """Append ``hook``; the returned function takes it out, once."""
    hooks.append(hook)

    def leave() -> None:
        if hook in hooks:
            hooks.remove(hook)

    return leave


def _nothing() -> None:
    return None
