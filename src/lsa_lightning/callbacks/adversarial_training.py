"""Adversarial training of any LightningModule, by wrapping its ``training_step``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.callbacks.alarm import CollapseAlarm, StepSeen
from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.callbacks.own_keys import log_own_mean
from lsa_lightning.functional.classification import are_class_labels
from lsa_lightning.layers.calls import CallSite
from lsa_lightning.layers.outputs import OUTPUT
from lsa_lightning.objectives import AT, Objective
from lsa_lightning.steps.adversarial_step import AdversarialStep
from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.patch import nothing, patch_training_step
from lsa_lightning.steps.request import Passes, StepRequest, loss_of
from lsa_lightning.steps.target import Target
from lsa_lightning.utils.batch import BatchFn
from lsa_lightning.utils.checks import instance, number, or_none
from lsa_lightning.utils.describe import without_addresses
from lsa_lightning.utils.isolation import reentrance_off
from lsa_lightning.utils.outputs import FirstCall, OutputFn

BeforeStep: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], None]
"""Called as ``before_step(model, x, x_adv, y)`` in each step, when the batch is crafted and nothing has run on it."""


_UNSUPPORTED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class AdversarialTraining(FreshCallback):
    """Trains an unmodified LightningModule on adversarial examples.

    In each step the batch is attacked, the user's own ``training_step`` runs on the adversarial (or clean) batch, and
    what it returns, plus the objective's term, is the loss J. Logs ``train/loss_base`` (J).

    Every fit starts afresh, with the random numbers of the attack's seed, unless it resumes from a checkpoint or goes
    on with the former fit of the same module in the same Trainer. The searches of Lightning's tuner run without
    callbacks, so they see the module's own training.

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
        alarm: watches for catastrophic overfitting; see :class:`~lsa_lightning.callbacks.alarm.CollapseAlarm`. The
            user's step then runs uncompiled.

    Attributes:
        before_step: where other callbacks hook in, see :data:`BeforeStep`.

    Raises:
        ValueError: if ``attack`` is not an :class:`~lsa_lightning.attacks.Attack`, or ``eps_warmup_epochs`` < 0.
        MisconfigurationException: at fit start, for manual optimization, a strategy that shards the model, an unknown
            ``backbone``, or another such callback on the same model where one of both has an objective that needs what
            the model returns, an alarm, or a regularizer; at the first batch, if ``batch_fn`` cannot read it or
            ``training_step`` returns no loss.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """

    of_each_process = ("attack", "unlabelled")

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
        alarm: CollapseAlarm | None = None,
    ) -> None:
        instance(self, "attack", attack, Attack, what="an Attack, such as PGD(eps=8/255)")
        self.target = Target.of(
            target, input_space=input_space, batch_fn=batch_fn, backbone=backbone, output_fn=output_fn
        )
        self.attack = self.target.in_space(attack)
        self.objective = or_none(instance, self, "objective", objective, Objective) or AT()
        self.eps_warmup_epochs = number(self, "eps_warmup_epochs", eps_warmup_epochs, low=0)
        self.alarm = or_none(instance, self, "alarm", alarm, CollapseAlarm)
        self._attacked_from: Any = None
        self._watched: StepSeen | None = None
        self.before_step: list[BeforeStep] = []
        attack_key = without_addresses(repr(self.attack))
        self._state_key = self._generate_state_key(attack=attack_key, backbone=self.target.backbone)
        self._sites: dict[str, CallSite] = {}
        self._step: AdversarialStep | None = None
        self._at_model = self._fits = False
        self._unpatch: Callable[[], None] = nothing

    @property
    def state_key(self) -> str:
        """Distinguishes callbacks of one class in a checkpoint."""
        return self._state_key  # Lightning asks for it in each hook

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin afresh, and say what a search of the tuner, which may come before everything else, finds."""
        super().setup(trainer, pl_module, stage)
        self._warn_of_searches(trainer)

    def start_afresh(self) -> None:
        """Draw the attack's random numbers from the beginning, and forget where examples are crafted."""
        self.attack.restart()
        self._at_model = False
        if self.alarm is not None:
            self.alarm.restart()

    def start_fit(self) -> None:
        """See anew which calls the layers of a list mean and whether labels fit; keep where examples are crafted."""
        if self._step is not None:
            self._at_model, self._step = self._step.at_model, None
        self._sites, self._fits = {}, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the combination, then wrap ``training_step``."""
        if not pl_module.automatic_optimization:
            msg = (
                f"{type(self).__name__} adds to the loss that training_step returns, which manual optimization "
                "ignores: expected automatic_optimization=True"
            )
            raise MisconfigurationException(msg)
        if self.alarm is not None and not self.attack.needs_classes:
            msg = f"the alarm looks at the cross-entropy: expected an attack on scores of classes, got {self.attack!r}"
            raise MisconfigurationException(msg)
        if self.alarm is not None and self.alarm.signal.needs_penalty and not self.always_penalizes:
            msg = (
                "expected an alarm that hears steps without a penalty on layers, as these are where there is none, or "
                f"none before it rings, got {self.alarm.signal!r}, which would never ring"
            )
            raise MisconfigurationException(msg)
        self._check_others(trainer, pl_module)
        if isinstance(trainer.strategy, _UNSUPPORTED):
            msg = f"{type(self).__name__} runs on one device or with DDP, got {type(trainer.strategy).__name__}"
            raise MisconfigurationException(msg)
        name = self.target.backbone or type(pl_module).__name__
        model, on_clean = self.target.model(pl_module), self.objective.steps_on_clean
        self._step = adversarial_step = AdversarialStep(
            model,
            name,
            whole=pl_module,
            on_clean=on_clean,
            read_logits=self.target.logits,
            check_labels=self.attack.needs_classes,
            quietly=partial(off_the_record, pl_module),
        )
        adversarial_step.at_model = self._at_model

        def wrapper(step: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
            if self not in trainer.callbacks:  # type: ignore[attr-defined]  # a search took all callbacks out
                return step(batch, *args, **kwargs)
            return self._training_step(pl_module, adversarial_step, step, batch, *args, **kwargs)

        self._unpatch()
        self._unpatch = patch_training_step(pl_module, wrapper)

    def _check_others(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attacks of one model may follow one another; but what looks at a step's passes would see the attacks' too."""
        own = set(map(id, self.target.model(pl_module).parameters()))
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is self or not isinstance(other, AdversarialTraining):
                continue
            looking = next((each for each in (self, other) if each.looks_at_passes), None)
            if looking is not None and not own.isdisjoint(map(id, other.target.model(pl_module).parameters())):
                msg = (
                    f"expected {type(looking).__name__}, which looks at what the model returns in a step, as the only "
                    f"callback that attacks this model, got {type(self).__name__} and {type(other).__name__}"
                )
                raise MisconfigurationException(msg)

    def _warn_of_searches(self, trainer: pl.Trainer) -> None:
        for search in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(search, LearningRateFinder | BatchSizeFinder):
                rank_zero_warn(
                    f"{type(search).__name__} searches without callbacks, so it is not adversarial: what it finds is "
                    f"for the module's own training, not for {type(self).__name__}, whose steps take more memory."
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Only now the number of batches is known, and lazy modules may have met a batch."""
        held = chain(pl_module.named_parameters(), pl_module.named_buffers())
        lazy = [name for name, tensor in held if is_lazy(tensor)]
        if lazy:
            msg = (
                "expected parameters and buffers that have a shape when training starts, got uninitialised ones, "
                f"{lazy[:3]}: run a batch through the module before, as the Trainer's sanity check does "
                "(num_sanity_val_steps > 0)"
            )
            raise MisconfigurationException(msg)
        if self.eps_warmup_epochs > 0 and trainer.num_training_batches == float("inf"):
            msg = "expected a dataloader with a length, or limit_train_batches, for eps_warmup_epochs; got neither"
            raise MisconfigurationException(msg)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hear what the step before has shown."""
        if self.alarm is not None:
            self.alarm.settle()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the alarm what it has waited for, before anybody saves a checkpoint of this step."""
        if self._step is not None:
            self._step.close()
        seen, self._watched = self._watched, None
        if self.alarm is not None and seen is not None:
            self._show(pl_module, self.alarm, seen)

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        """The backward pass is over."""
        if self._step is not None:
            self._step.close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Whatever is still to be said about the last steps, on a GPU, is said now."""
        if self._step is not None:
            self._step.settle()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the module its own ``training_step`` back."""
        self._unpatch()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """After an error, ``on_fit_end`` does not run."""
        self._unpatch()
        if self._step is not None:
            self._step.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the attack's random generators and of the alarm, and where examples are crafted."""
        heard = {} if self.alarm is None else {"alarm": self.alarm.state_dict()}
        at_model = self._at_model if self._step is None else self._step.at_model
        return {"attack": self.attack.state_dict(), "at_model": at_model, **heard}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the attack's random numbers, and the alarm, where the checkpoint left them."""
        self.attack.load_state_dict(self.own_part(state_dict).get("attack", {}))
        self._at_model = state_dict.get("at_model", False)
        if self.alarm is not None and "alarm" in state_dict:  # one that it was trained without begins afresh
            self.alarm.load_state_dict(state_dict["alarm"])

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle made in a fit has patched nothing, so it has nothing to take back.
        return {**super().__getstate__(), "_step": None, "_unpatch": nothing, "_attacked_from": None, "_watched": None}

    def prepare(self, model: nn.Module, x: Tensor) -> None:
        """Called before each step, with the model and an input as training gives it; does nothing here."""

    @property
    def always_penalizes(self) -> bool:
        """Whether the labelled inputs of steps have a penalty on layers, whatever the alarm says; False here."""
        return False

    @property
    def looks_at_passes(self) -> bool:
        """Whether the objective or the alarm need what the model returns in a step."""
        return self.objective.needs_both_outputs or self.alarm is not None

    def penalized_layers(self, epoch: int) -> list[str]:
        """Layers whose clean and adversarial representations :meth:`penalty` gets; none here."""
        return []

    def penalty_waits(self, epoch: int) -> bool:
        """Whether, with no such layer, the penalty is logged as 0, as it is not 0 in other steps; False here."""
        return False

    def penalty(self, clean: dict[str, Tensor], adversarial: dict[str, Tensor], y: Tensor, epoch: int) -> Tensor:
        """What is added to J when :meth:`penalized_layers` is not empty: a scalar; zero here."""
        return torch.zeros(())

    def _training_step(
        self,
        module: pl.LightningModule,
        adversarial_step: AdversarialStep,
        step: Callable[..., Any],
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x, y = self.target.unpack(batch)
        wraps_another = hasattr(step, "active")  # another such callback, which changes x on purpose

        def run_step(batch: Any) -> Any:
            return step(batch, *args, **kwargs)

        seen = (adversarial_step.model, x) if wraps_another else adversarial_step.look(run_step, batch, x)
        self.prepare(*seen)
        layers = self.penalized_layers(module.current_epoch)
        probed = [*layers, OUTPUT] if self.objective.needs_both_outputs else layers
        craft, watched = partial(self._craft, module), self.alarm is not None and not self.objective.needs_both_outputs
        asked = StepRequest(run_step, batch, x, y, craft, probed, self._sites, with_output=watched)
        passes = adversarial_step.run(asked, checked=not wraps_another)
        loss, result = loss_of(passes.result), passes.result
        if loss is None:
            return result
        loss = self.total_loss(module, loss, passes, y, len(x))
        return {**result, "loss": loss} if isinstance(result, Mapping) else loss

    def _check_classes(self, logits: Tensor, y: Tensor) -> None:
        """Of the first batch, where the objective compares scores of classes and the attack does not ask for them."""
        self._fits = True
        if self.objective.needs_classes and not are_class_labels(logits, y):
            msg = (
                f"{type(self.objective).__name__} compares scores of classes: expected labels that are classes, got "
                f"{y.dtype} of shape {(*y.shape,)}, as of several labels each or of a regression"
            )
            raise MisconfigurationException(msg)

    def total_loss(self, module: pl.LightningModule, loss: Tensor, passes: Passes, y: Tensor, samples: int) -> Tensor:
        """What is minimised: the loss of the user's step, the objective's term and the penalty; logs both parts.

        Args:
            module: what trains.
            loss: the loss of its step.
            passes: what the two passes gave; the representations are those of the penalised layers.
            y: labels.
            samples: number of samples N.
        """
        clean, adversarial = dict(passes.clean), dict(passes.adversarial)
        if self.alarm is not None:
            self._watch(module, self.alarm, passes, y)
        if self.objective.needs_both_outputs:
            if not (self._fits or self.attack.needs_classes):
                self._check_classes(clean[OUTPUT], y)
            loss = loss + self.objective.term(clean.pop(OUTPUT), adversarial.pop(OUTPUT), y)
        _log(module, "train/loss_base", loss, samples)
        if self.penalized_layers(module.current_epoch):
            # Where training skips blocks, a skipped layer has no penalty in this step.
            both = [name for name in clean if name in adversarial]
            penalty = torch.zeros_like(loss)
            if both:
                clean, adversarial = ({name: side[name] for name in both} for side in (clean, adversarial))
                penalty = self.penalty(clean, adversarial, y, module.current_epoch)
            _log(module, "train/loss_lr", penalty, samples)
            loss = loss + penalty
        elif self.penalty_waits(module.current_epoch):
            _log(module, "train/loss_lr", torch.zeros_like(loss), samples)
        return loss

    def _craft(self, module: pl.LightningModule, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The adversarial examples of a step; other callbacks hook in here."""
        attack = self.attack_now(module)
        first = None if self.alarm is None else FirstCall(model)
        self.log_eps(module, attack, x)
        with off_the_record(module):
            x_adv: Tensor = attack(model if first is None else first, x, y)
            with reentrance_off():
                for before_step in self.before_step:
                    before_step(model, x, x_adv, y)
        self._attacked_from = None if first is None else first.output
        if self.alarm is not None and first is not None:
            # Some attacks call the model on a part of the batch.
            start = x if first.input is None or first.input.shape != x.shape else first.input
            x_adv = self.alarm.follow(start, x_adv)
        return x_adv

    def _watch(self, module: pl.LightningModule, alarm: CollapseAlarm, passes: Passes, y: Tensor) -> None:
        """Show the alarm what the step has computed, at once or, if it needs the gradient, after the backward pass."""
        clean = {name: value for name, value in passes.clean.items() if name != OUTPUT}
        if self.objective.needs_both_outputs:
            before: Tensor | None = passes.clean[OUTPUT]
            after: Tensor | None = passes.adversarial[OUTPUT]
        else:
            before, after = (self._logits_of_all(each, len(y)) for each in (self._attacked_from, passes.output))
        self._attacked_from = None
        seen = StepSeen(y, before, after, clean)
        if alarm.signal.needs_gradient:
            self._watched = seen
        else:
            self._show(module, alarm, seen)

    def _show(self, module: pl.LightningModule, alarm: CollapseAlarm, seen: StepSeen) -> None:
        """Show the alarm the step, and log what it makes of it."""
        value = alarm.see(seen)
        if value is not None:
            _log(module, f"train/alarm_{alarm.signal.name}", value, len(seen.y))
            _log(module, "train/alarm_level", torch.full_like(value, alarm.level), len(seen.y))

    def _logits_of_all(self, output: Any, samples: int) -> Tensor | None:
        logits = None if output is None else self.target.logits(output)
        return logits if logits is not None and len(logits) == samples else None

    def log_eps(self, module: pl.LightningModule, attack: Attack, x: Tensor) -> None:
        """Log the radius of a step, if it warms up."""
        if self.eps_warmup_epochs > 0:
            _log(module, "train/eps", torch.tensor(attack.eps, device=x.device), len(x))

    def attack_now(self, module: pl.LightningModule) -> Attack:
        """The attack, with a part of its eps while that warms up."""
        return self.warmed_up(self.attack, module)

    def warmed_up(self, attack: Attack, module: pl.LightningModule) -> Attack:
        """``attack`` with the share of its eps that this step has: all of it, once the warm-up is over."""
        trainer = module.trainer
        step = trainer.fit_loop.epoch_loop.batch_idx + 1
        epochs = module.current_epoch + step / trainer.num_training_batches
        return attack if epochs >= self.eps_warmup_epochs else attack.scaled(epochs / self.eps_warmup_epochs)


def _log(module: pl.LightningModule, name: str, value: Tensor, batch_size: int) -> None:
    log_own_mean(_log, module, name, value, batch_size)
