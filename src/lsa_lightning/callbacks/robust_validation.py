"""Accuracy under attack, measured in every validation run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.attacks.base import staying
from lsa_lightning.callbacks.base import FreshCallback
from lsa_lightning.callbacks.own_keys import log_own, refuse_others
from lsa_lightning.callbacks.validation_loaders import ValidationLoaders, loader_key
from lsa_lightning.evaluation import correct
from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.patch import nothing, patch_method
from lsa_lightning.steps.target import Target
from lsa_lightning.steps.validation_input import ValidationInput
from lsa_lightning.utils.batch import BatchFn
from lsa_lightning.utils.checks import choice, integer, mapping, number, or_none, sequence, text
from lsa_lightning.utils.isolation import preserved_random_state
from lsa_lightning.utils.outputs import OutputFn
from lsa_lightning.utils.renamed import renamed


class RobustValidation(FreshCallback):
    """Logs ``val/acc_clean``, ``val/acc_<attack>`` (each in [0, 1]) and ``val/rg_score`` (percent, summed over eps).

    What is measured is the model on what ``validation_step`` feeds to it, whatever that does to the batch before; a
    step that does so is run up to that call once more, without logging.

    Works in ``trainer.fit`` and in ``trainer.validate``; a sanity check only shows what the step feeds to the model. Of
    several validation dataloaders each has its own keys, which end as Lightning's do in ``/dataloader_idx_<number>``,
    or in ``/<name>`` for a dict of them. Validation runs that are not measured log the values of the last one that was,
    so that they can be monitored by checkpoints, schedulers and early stopping, whose patience counts them;
    ``val/measured_epoch`` is then logged too, the epoch, from 0, of the weights that they are of.
    Samples that a distributed sampler repeats are counted once.

    Args:
        attacks: attack by the name used in the key; not ``clean``, and without ``/``.
        rg_attack: name of the attack whose accuracies make up R&G; None: no R&G.
        rg_eps: the radii of R&G, besides the clean column; each > 0.
        every_n_epochs: run in every n-th epoch of training, >= 1, and in its first and last validation run: the weights
            that a schedule of the learning rate ends with are measured whatever n divides. A further fit of the same
            module in the same Trainer is more of the same training.
        limit_batches: batches per dataloader and process, >= 1; None: all.
        dataloaders: numbers of the validation dataloaders to measure, or their names if they are a dict; None: all.
        prefix: what the keys begin with instead of ``val``, for a second one of these in a Trainer.
        input_space: ``(mean, std)`` or an :class:`~lsa_lightning.attacks.InputSpace` if batches are normalised; ``eps``
            and ``bounds`` are then in pixels.
        batch_fn: ``batch -> (x, y)``; default :func:`~lsa_lightning.utils.batch.read_batch`.
        backbone: name of the submodule that maps x to logits; None: the LightningModule's forward.
        output_fn: ``output -> logits``, for a model that returns neither a tensor nor one named ``logits``.
        target: these four in one :class:`~lsa_lightning.callbacks.Target`, instead of them.

    Raises:
        ValueError: if an argument is outside its range, or R&G is asked for with an attack that is not there.
        MisconfigurationException: if ``validation_step`` changes x, and never calls the model that is attacked; at the
            start of a fit, if an ``EarlyStopping`` would end it before its metric is measured again.
    """

    @renamed(max_batches="limit_batches")
    def __init__(
        self,
        attacks: Mapping[str, Attack],
        *,
        rg_attack: str | None = None,
        rg_eps: Sequence[float] = (),
        every_n_epochs: int = 1,
        limit_batches: int | None = None,
        dataloaders: Sequence[int | str] | None = None,
        prefix: str = "val",
        input_space: InputSpace | tuple[Any, Any] | None = None,
        batch_fn: BatchFn | None = None,
        backbone: str | None = None,
        output_fn: OutputFn | None = None,
        target: Target | None = None,
    ) -> None:
        attacks = mapping(self, "attacks", attacks, staying)
        strange = [name for name in attacks if not isinstance(name, str) or name in ("", "clean") or "/" in name]
        if strange:
            msg = f"expected attacks to be named by text without '/', and not 'clean', which is a key, got {strange}"
            raise ValueError(msg)
        rg_attack = or_none(choice, self, "rg_attack", rg_attack, attacks)
        radii = [] if rg_attack is None else sequence(self, "rg_eps", rg_eps, number, above=0)
        self.target = Target.of(
            target, input_space=input_space, batch_fn=batch_fn, backbone=backbone, output_fn=output_fn
        )
        self.attacks = {name: self.target.in_space(attack) for name, attack in attacks.items()}
        self.rg_attacks = [self.attacks[rg_attack].with_eps(eps) for eps in radii] if rg_attack else []
        self.every_n_epochs = integer(self, "every_n_epochs", every_n_epochs, low=1)
        self.limit_batches = or_none(integer, self, "limit_batches", limit_batches, low=1)
        self.dataloaders = or_none(sequence, self, "dataloaders", dataloaders, each=loader_key)
        self.prefix = text(self, "prefix", prefix)
        self._latest: dict[str, float] = {}
        self._due = False
        self._input: ValidationInput | None = None
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._hits: Tensor | None = None
        self._means: dict[str, MeanMetric] = {}
        self._fresh: dict[str, Attack] = {}
        self._fresh_rg: list[Attack] = []
        self._unhook: Callable[[], None] = nothing

    @property
    def repeats(self) -> bool:
        """Whether some validation runs log the values of another."""
        return self.every_n_epochs > 1

    @property
    def epoch_key(self) -> str:
        """The key of the epoch whose values are logged, where some are repeated."""
        return f"{self.prefix}/measured_epoch"

    @property
    def measured_epoch(self) -> int | None:
        """The epoch, from 0, of the values that are logged; None where none are repeated, and before the first."""
        return next((int(value) for key, value in self._latest.items() if key.startswith(self.epoch_key)), None)

    @property
    def state_key(self) -> str:
        """Distinguishes callbacks of one class in a checkpoint."""
        return self._generate_state_key(prefix=self.prefix, attacks=list(self.attacks))

    def start_afresh(self) -> None:
        """Nothing has been measured yet."""
        self._latest = {}

    def state_dict(self) -> dict[str, Any]:
        """What was measured last."""
        return {"latest": self._latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the checkpoint's."""
        self._latest = state_dict["latest"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse an early stop that would come before a second value, and say what checkpoints are named by."""
        every, interval = self.every_n_epochs, trainer.check_val_every_n_epoch
        if interval is None:  # validation goes by batches
            return
        measured = math.lcm(every, interval)
        repeats = measured // interval - 1
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            key = callback.monitor if isinstance(callback, EarlyStopping | ModelCheckpoint) else None
            if key is None or not any(key == own or key.startswith(f"{own}/") for own in self._keys()):
                continue
            in_time = trainer.max_epochs in (None, -1) or trainer.max_epochs > measured
            if repeats and isinstance(callback, EarlyStopping) and callback.patience <= repeats and in_time:
                msg = (
                    f"EarlyStopping counts each validation run, also those that repeat {key}: expected patience > "
                    f"{repeats} for every_n_epochs={every}, got {callback.patience}"
                )
                raise MisconfigurationException(msg)
            chooses = isinstance(callback, ModelCheckpoint) and callback.save_top_k > 1
            if repeats and chooses and callback._every_n_epochs % measured:
                rank_zero_warn(
                    f"ModelCheckpoint(save_top_k={callback.save_top_k}) keeps epochs by a {key} that is measured every "
                    f"{measured} epochs and repeated in between: give it every_n_epochs={measured} too."
                )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See whether this run is measured."""
        self._due = self._is_due(trainer)
        self._means = {}
        # Fresh copies: every run draws the same random starts, so that epochs differ by their weights alone.
        self._fresh = {name: attack.with_eps(attack.eps) for name, attack in self.attacks.items()}
        self._fresh_rg = [attack.with_eps(attack.eps) for attack in self.rg_attacks]

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at this batch when the module's own hook, which comes last and may change it, is through with it."""
        loaders = ValidationLoaders(trainer)
        checked = trainer.sanity_checking and self._is_chosen(loaders, dataloader_idx)
        if not (checked or self._is_measured(loaders, batch_idx, dataloader_idx)):
            return

        def hook(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            self._give_back()
            inner(*args, **kwargs)
            self._look(trainer, pl_module, batch, batch_idx, dataloader_idx)

        self._give_back()
        self._unhook = patch_method(pl_module, "on_validation_batch_start", hook)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The hook may not have been called."""
        self._give_back()

    def _give_back(self) -> None:
        """Give the module its own hook back, and keep nothing of the batch."""
        self._unhook()
        self._unhook = nothing

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_unhook": nothing}  # a copy has hooked into nothing

    def _look(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """See what the model is given for this batch, and how it classifies it.

        Before the step, which may change the batch in place, and from the same random numbers as in the step.
        """
        loaders = ValidationLoaders(trainer)
        if self._input is None or batch_idx == 0:
            self._input = ValidationInput(pl_module, self.target)
        x, y = self.target.unpack(batch)
        with (
            trainer.precision_plugin.forward_context(),
            preserved_random_state(x.device),
            off_the_record(pl_module),
        ):
            given = self._input.of(batch, x, *loaders.numbers(dataloader_idx, batch_idx))
            if given is None:
                self._x = None
                return
            self._x, self._y = given.clone(), y.clone()
            self._hits = correct(self._input.model, self._x, y, self.target.output_fn)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the accuracies on this batch, of which Lightning takes the mean."""
        refuse_others(self, trainer, self._keys())
        loaders = ValidationLoaders(trainer)
        # Of what is the same everywhere, a mean over all processes would round, and could look like a gain.
        one = int(trainer.is_global_zero)
        if self._is_measured(loaders, batch_idx, dataloader_idx):
            self._measure(loaders, pl_module, batch_idx, dataloader_idx)
            if self.repeats and trainer.state.fn == TrainerFn.FITTING and batch_idx == 0:
                self._log(loaders, pl_module, dataloader_idx, self.epoch_key, trainer.current_epoch, samples=one)
        elif not (self._due or trainer.sanity_checking or batch_idx) and self._is_chosen(loaders, dataloader_idx):
            for key in self._keys():
                if (again := key + loaders.suffix(dataloader_idx)) in self._latest:
                    self._log(loaders, pl_module, dataloader_idx, key, self._latest[again], samples=one)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was measured in a fit, for its runs that are not."""
        self._input = self._x = self._y = self._hits = None
        if self._due and trainer.state.fn == TrainerFn.FITTING:
            loaders, metrics = ValidationLoaders(trainer), trainer.callback_metrics
            ours = [key + loaders.suffix(i) for key in self._keys() for i in range(len(loaders.names))]
            self._latest = {key: float(metrics[key]) for key in ours if key in metrics}

    def _measure(
        self, loaders: ValidationLoaders, module: pl.LightningModule, batch_idx: int, dataloader_idx: int
    ) -> None:
        if self._x is None:  # a batch that the step skips
            return
        assert self._input is not None
        assert self._y is not None
        assert self._hits is not None
        model, x, y = self._input.model, self._x, self._y
        real = loaders.real_samples(dataloader_idx, batch_idx, len(x))

        def share(hits: Tensor) -> Tensor:
            return hits[:real].float().sum() / max(real, 1)

        with (
            loaders.trainer.precision_plugin.forward_context(),
            preserved_random_state(x.device),
            off_the_record(module),
        ):
            values = self.accuracies(self._hits, self.hits(model, x, y), share)
        for name, value in values.items():
            self._log(loaders, module, dataloader_idx, f"{self.prefix}/{name}", value, real)

    def hits(self, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
        """Which inputs ``model`` classifies correctly under each attack, then at each radius of R&G; ``[N]`` each."""
        attacks = [*self._fresh.values(), *self._fresh_rg]
        return [correct(model, attack(model, x, y), y, self.target.output_fn) for attack in attacks]

    def accuracies(self, clean: Tensor, hits: Sequence[Tensor], share: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What is measured on a batch, by the name that the key ends in.

        Args:
            clean: which inputs are classified correctly, ``[N]``.
            hits: see :meth:`hits`.
            share: the share of such a ``[N]`` that is true.
        """
        under = [share(each) for each in hits]
        names = ["acc_clean", *(f"acc_{name}" for name in self._fresh)]
        values = dict(zip(names, [share(clean), *under], strict=False))
        if self.rg_attacks:  # a sum of means is the mean of the batches' sums
            values["rg_score"] = 100 * sum(under[len(self._fresh) :], values["acc_clean"])
        return values

    def _log(
        self,
        loaders: ValidationLoaders,
        module: pl.LightningModule,
        index: int,
        key: str,
        value: Tensor | float,
        samples: int,
    ) -> None:
        suffix = loaders.suffix(index)
        # A metric, as Lightning's own mean over processes rounds the number of samples down.
        mean = self._means.setdefault(key + suffix, MeanMetric()).to(module.device)
        mean.update(value, weight=samples)
        named = not suffix.startswith("/dataloader_idx_")  # those Lightning appends itself
        log_own(
            self,
            module,
            key + suffix if named else key,
            mean,
            metric_attribute=key,
            on_step=False,
            on_epoch=True,
            batch_size=samples,
            prog_bar="/acc_" in key,
            add_dataloader_idx=not named,
        )

    def _keys(self) -> list[str]:
        names = ["acc_clean", *(f"acc_{name}" for name in self.attacks), *(["rg_score"] if self.rg_attacks else [])]
        return [*(f"{self.prefix}/{name}" for name in names), *([self.epoch_key] if self.repeats else [])]

    def _is_measured(self, loaders: ValidationLoaders, batch_idx: int, index: int) -> bool:
        within = self.limit_batches is None or batch_idx < self.limit_batches
        return self._due and within and self._is_chosen(loaders, index)

    def _is_chosen(self, loaders: ValidationLoaders, index: int) -> bool:
        return self.dataloaders is None or index in (loaders.index(name, "dataloaders") for name in self.dataloaders)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking or trainer.barebones:
            return False
        # trainer.validating is also true in the validation runs of a fit.
        fitting = trainer.state.fn == TrainerFn.FITTING
        if not fitting or not self._latest or _is_last(trainer):
            return True
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0


def _is_last(trainer: pl.Trainer) -> bool:
    """Whether the fit ends before another validation run, or within this epoch; a time limit tells nothing."""
    epochs, interval = float(trainer.current_epoch + 1), trainer.check_val_every_n_epoch
    growth = 1 + (interval or 0) / epochs
    if interval is None:  # validation goes by batches, or by time
        batches = trainer.fit_loop.total_batch_idx + 1
        growth = 1 + (trainer.val_check_batch or 0) / batches
        epochs = batches / trainer.num_training_batches  # 0 where that is not known
    ends = [(epochs, trainer.max_epochs), (trainer.global_step, trainer.max_steps)]
    return any(end is not None and end > 0 and done * growth > end * (1 + 1e-9) for done, end in ends)
