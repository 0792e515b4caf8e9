"""Adversarial training of any LightningModule, by wrapping its ``training_step``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.callbacks.step_patch import patch_training_step
from lsa_lightning.callbacks.target import Target
from lsa_lightning.layers.calls import CallSite
from lsa_lightning.layers.probe import OUTPUT, LayerProbe
from lsa_lightning.objectives import AT, Objective
from lsa_lightning.utils.batch import BatchFn, replace_tensor
from lsa_lightning.utils.isolation import RandomStateAtForward, scratch_buffers
from lsa_lightning.utils.outputs import OutputFn

BeforeStep: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], None]
"""Called as ``before_step(model, x, x_adv, y)`` in each step, when the batch is crafted and nothing has run on it."""


_UNSUPPORTED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class AdversarialTraining(pl.Callback):
    """Trains an unmodified LightningModule on adversarial examples.

    In each step the batch is attacked, the user's own ``training_step`` runs on the adversarial (or clean) batch, and
    what it returns, plus the objective's term, is the loss J. Logs ``train/loss_base`` (J).

    Args:
        attack: makes the training examples.
        objective: how the outputs become J; default :class:`~lsa_lightning.objectives.AT`.
        input_space: ``(mean, std)`` or an :class:`~lsa_lightning.attacks.InputSpace` if batches are normalised; ``eps``
            and ``bounds`` are then in pixels.
        batch_fn: ``batch -> (x, y)``, returning the batch's own tensors; default
            :func:`~lsa_lightning.utils.batch.read_batch`.
        backbone: name of the submodule that maps x to logits; None: the LightningModule's forward.
        output_fn: ``output -> logits``, for a model that returns neither a tensor nor one named ``logits``.
        target: these four in one :class:`~lsa_lightning.callbacks.Target`, instead of them.
        eps_warmup_epochs: number >= 0, not necessarily whole, of epochs in which eps rises step by step from 0 to the
            attack's own; logged as ``train/eps``. At a large eps, such as 0.3 on MNIST, training may otherwise stay at
            chance.

    Attributes:
        before_step: where other callbacks hook in, see :data:`BeforeStep`.

    Raises:
        ValueError: if ``attack`` is not an :class:`~lsa_lightning.attacks.Attack`, or ``eps_warmup_epochs`` < 0.
        MisconfigurationException: at fit start, for manual optimization, a strategy that shards the model or an unknown
            ``backbone``; at the first batch, if ``batch_fn`` cannot read it or ``training_step`` returns no loss.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """

    def __init__(
        self,
        attack: Attack,
        objective: Objective | None = None,
        *,
        input_space: InputSpace | tuple[Any, Any] | None = None,
        batch_fn: BatchFn | None = None,
        backbone: str | None = None,
        output_fn: OutputFn | None = None,
        target: Target | None = None,
        eps_warmup_epochs: float = 0.0,
    ) -> None:
        if not isinstance(attack, Attack):
            msg = f"expected attack to be an Attack, such as PGD(eps=8/255), got {attack!r}"
            raise ValueError(msg)
        if not eps_warmup_epochs >= 0:
            msg = f"expected eps_warmup_epochs >= 0, got {eps_warmup_epochs}"
            raise ValueError(msg)
        self.target = Target.of(
            target, input_space=input_space, batch_fn=batch_fn, backbone=backbone, output_fn=output_fn
        )
        self.attack = self.target.in_space(attack)
        self.objective = objective if objective is not None else AT()
        self.eps_warmup_epochs = eps_warmup_epochs
        self.before_step: list[BeforeStep] = []
        self._sites: dict[str, CallSite] = {}
        self._unpatch: Callable[[], None] = _nothing

    @property
    def state_key(self) -> str:
        """Distinguishes callbacks of one class in a checkpoint."""
        return self._generate_state_key(attack=repr(self.attack), backbone=self.target.backbone)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the combination, then wrap ``training_step``."""
        if not pl_module.automatic_optimization:
            msg = (
                f"{type(self).__name__} adds to the loss that training_step returns, which manual optimization "
                "ignores: expected automatic_optimization=True"
            )
            raise MisconfigurationException(msg)
        if isinstance(trainer.strategy, _UNSUPPORTED):
            msg = f"{type(self).__name__} runs on one device or with DDP, got {type(trainer.strategy).__name__}"
            raise MisconfigurationException(msg)
        model = self.target.model(pl_module)
        self._sites = {}

        def wrapper(step: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
            return self._training_step(pl_module, model, step, batch, *args, **kwargs)

        self._unpatch()
        self._unpatch = patch_training_step(pl_module, wrapper)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Only now the number of batches is known."""
        if self.eps_warmup_epochs > 0 and trainer.num_training_batches == float("inf"):
            msg = "expected a dataloader with a length, or limit_train_batches, for eps_warmup_epochs; got neither"
            raise MisconfigurationException(msg)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the module its own ``training_step`` back."""
        self._unpatch()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """After an error, ``on_fit_end`` does not run."""
        self._unpatch()

    def state_dict(self) -> dict[str, Any]:
        """The state of the attack's random generators."""
        return {"attack": self.attack.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the attack's random numbers where the checkpoint left them."""
        self.attack.load_state_dict(state_dict["attack"])

    def penalized_layers(self, epoch: int) -> list[str]:
        """Layers whose clean and adversarial representations :meth:`penalty` gets; none here."""
        return []

    def penalty(self, clean: dict[str, Tensor], adversarial: dict[str, Tensor], y: Tensor, epoch: int) -> Tensor:
        """What is added to J when :meth:`penalized_layers` is not empty: a scalar; zero here."""
        return torch.zeros(())

    def _training_step(
        self,
        module: pl.LightningModule,
        model: nn.Module,
        step: Callable[..., Any],
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x, y = self.target.unpack(batch)
        attack = self._attack_now(module)
        x_adv = attack(model, x, y)
        if self.eps_warmup_epochs > 0:
            _log(module, "train/eps", torch.tensor(attack.eps, device=x.device), len(x))
        for before_step in self.before_step:
            before_step(model, x, x_adv, y)
        layers = self.penalized_layers(module.current_epoch)
        probed = [*layers, OUTPUT] if self.objective.needs_both_outputs else layers
        stepped_on, other = (x, x_adv) if self.objective.steps_on_clean else (x_adv, x)
        run_step = partial(step, replace_tensor(batch, x, stepped_on), *args, **kwargs)

        result, own, others = self._forward_both(model, run_step, other, probed)
        loss = _loss_of(result)
        if loss is None:
            return result
        clean, adversarial = (own, others) if self.objective.steps_on_clean else (others, own)
        if self.objective.needs_both_outputs:
            loss = loss + self.objective.term(clean.pop(OUTPUT), adversarial.pop(OUTPUT), y)
        _log(module, "train/loss_base", loss, len(x))
        if layers:
            # Where training skips blocks, a skipped layer has no penalty in this step.
            both = [name for name in clean if name in adversarial]
            penalty = torch.zeros_like(loss)
            if both:
                clean, adversarial = ({name: side[name] for name in both} for side in (clean, adversarial))
                penalty = self.penalty(clean, adversarial, y, module.current_epoch)
            _log(module, "train/loss_lr", penalty, len(x))
            loss = loss + penalty
        return {**result, "loss": loss} if isinstance(result, dict) else loss

    def _attack_now(self, module: pl.LightningModule) -> Attack:
        """The attack, with a part of its eps while that warms up."""
        trainer = module.trainer
        step = trainer.fit_loop.epoch_loop.batch_idx + 1
        epochs = module.current_epoch + step / trainer.num_training_batches
        return self.attack if epochs >= self.eps_warmup_epochs else self.attack.scaled(epochs / self.eps_warmup_epochs)

    def _forward_both(
        self, model: nn.Module, run_step: Callable[[], Any], other: Tensor, layers: list[str]
    ) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """The user's step and, where ``layers`` are asked for, the pass on the other batch.

        Returns:
            The step's result, and the representations of the step and of the other pass.
        """
        if not layers:
            return run_step(), {}, {}
        # A compiled model would not see the probe's hooks. The attack's passes, which are the most, stay compiled.
        with torch.compiler.set_stance("force_eager"):
            random_state = RandomStateAtForward(model, other.device)
            with random_state, self._probe(model, layers, other) as probe:
                result = run_step()
            if _loss_of(result) is None:
                return result, {}, {}
            own = _captured(probe)
            with random_state.replay():
                return result, own, self._other_pass(model, other, list(own))

    def _probe(self, model: nn.Module, layers: list[str], x: Tensor, stop_early: bool = False) -> LayerProbe:
        return LayerProbe(
            model, layers, len(x), stop_early, sites=self._sites, needs_gradient=True, read=self.target.logits
        )

    def _other_pass(self, model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """The pass on the batch that ``training_step`` did not get.

        For the objective it is an ordinary forward pass. For the penalty alone it ends at the deepest layer and leaves
        all buffers as they are.
        """
        for_penalty_alone = OUTPUT not in layers
        buffers = scratch_buffers(model) if for_penalty_alone else nullcontext()
        with buffers, self._probe(model, layers, x, stop_early=for_penalty_alone) as probe:
            model(x.clone())  # some models normalise what they are given in place
        return _captured(probe)


def _captured(probe: LayerProbe) -> dict[str, Tensor]:
    """What ``probe`` captured; a model that did not run, or not under gradients, is the user's misconfiguration."""
    try:
        captured = probe.captured if probe.ran else probe.representations
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    if OUTPUT in probe.layers and OUTPUT not in captured:
        msg = "expected training_step to call the model itself, whose output the objective needs; it never ran"
        raise MisconfigurationException(msg)
    return captured


def _loss_of(result: Any) -> Tensor | None:
    """The loss in what a ``training_step`` returned; None where it skipped the batch."""
    loss = result.get("loss") if isinstance(result, dict) else result
    if result is None or isinstance(loss, Tensor):
        return loss
    msg = f"expected training_step to return a loss tensor, a dict with key 'loss', or None, got {result!r}"
    raise MisconfigurationException(msg)


def _log(module: pl.LightningModule, name: str, value: Tensor, batch_size: int) -> None:
    module.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)


def _nothing() -> None:
    return None
