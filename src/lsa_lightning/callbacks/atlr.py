"""AT-LR: adversarial training with the layer-wise regularizer on the most vulnerable layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.callbacks.adversarial_training import AdversarialTraining
from lsa_lightning.callbacks.alarm import CollapseAlarm
from lsa_lightning.callbacks.collapse_guard import CollapseGuard
from lsa_lightning.callbacks.own_keys import log_own, log_own_mean
from lsa_lightning.callbacks.validation_loaders import ValidationLoaders, as_in_validation, loader_key
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis, TooFewSamplesError
from lsa_lightning.layers.history import rounded, stacked, unstacked
from lsa_lightning.layers.outputs import ALL_LEARNABLE, check_softmax_once, means_all_learnable
from lsa_lightning.layers.probe import check_names_exist
from lsa_lightning.layers.report import AnalysedEpoch, SustainabilityReport, in_words
from lsa_lightning.layers.resolve import LayerSpec, call_sites, checked_layers, resolve_layers
from lsa_lightning.objectives import Objective
from lsa_lightning.regularizers import LayerwiseRegularizer, TrainingSchedule
from lsa_lightning.selectors import Selector
from lsa_lightning.steps.both_passes import both_representations
from lsa_lightning.steps.off_the_record import off_the_record
from lsa_lightning.steps.request import Passes
from lsa_lightning.steps.target import Target
from lsa_lightning.steps.validation_input import ValidationInput
from lsa_lightning.unlabelled import Unlabelled
from lsa_lightning.utils.batch import BatchFn, first_samples
from lsa_lightning.utils.checks import flag, instance, integer, number, or_none, refuse, sequence, text
from lsa_lightning.utils.outputs import OutputFn
from lsa_lightning.utils.renamed import renamed


class ATLR(AdversarialTraining):
    r"""Adversarial training plus a penalty on the relative error of the Most Vulnerable Layers (MVL).

    .. math:: J(\theta, \hat x, y) + \sum_{l \in MVL} \gamma_l\, CM(\phi_l(x), \phi_l(\hat x))

    :math:`\phi_l(\hat x)` comes out of the user's own forward pass, :math:`\phi_l(x)` out of a clean pass that ends at
    the deepest of these layers, moves no buffer and draws the same dropout masks.

    After each validation run the layers are analysed on the validation batches (LSA), at the weights that were
    validated, averaged ones included; the list that comes out is used from then on. Before the first regularized epoch
    one such analysis is made, if none has been yet. Logs ``train/loss_base``, ``train/loss_lr`` (0 where a ramp or the
    gate is), ``lsa/<measure>/<02>_<layer>``, ``lsa/in_mvl/<02>_<layer>``, ``lsa/mu``, ``lsa/sigma`` and
    ``lsa/mvl_size``; the first list when it is made, and the latest one again after validation runs that are not
    analysed.

    Args:
        attack: makes the training examples.
        objective: the base loss J; default :class:`~lsa_lightning.objectives.AT`.
        regularizer: the penalty; default :class:`~lsa_lightning.regularizers.LayerwiseRegularizer` with gamma 0.1. Its
            measure is also the one of the analysis.
        layers: the layers that the analysis looks at, see :func:`~lsa_lightning.layers.resolve.resolve_layers`.
        mvl: None: computed by Algorithm 1; or a :class:`~lsa_lightning.selectors.Selector`, which computes it
            otherwise; or a fixed list of layer names, where ``"learnable"`` stands for all of the default and
            ``"logits"`` for what the model returns; or a
            :class:`~lsa_lightning.layers.report.SustainabilityReport`, whose list for ``eta`` and ``top_k`` is used.
        eta: threshold of Algorithm 1 in units of sigma.
        top_k: if given, the k most vulnerable layers, whatever their distance from mu.
        analysis_attack: attack of the analysis; None: ``attack``.
        analysis_every_n_epochs: analyse after the validation runs of every n-th epoch; 0: never, for a fixed list.
        analysis_limit_batches: validation batches analysed per process; None: as many as validation has.
        analysis_dataloader: the validation dataloader that is analysed, if there are several: its number, or its name
            if they are a dict. Samples that a distributed sampler repeats are left out.
        warmup_epochs: epochs at the start without the regularizer.
        input_space: see :class:`~lsa_lightning.callbacks.AdversarialTraining`.
        batch_fn: see :class:`~lsa_lightning.callbacks.AdversarialTraining`.
        backbone: see :class:`~lsa_lightning.callbacks.AdversarialTraining`; layer names are relative to it.
        output_fn: see :class:`~lsa_lightning.callbacks.AdversarialTraining`.
        target: see :class:`~lsa_lightning.callbacks.AdversarialTraining`.
        eps_warmup_epochs: see :class:`~lsa_lightning.callbacks.AdversarialTraining`; the attack of ``unlabelled`` warms
            up, too; the analysis is at full eps.
        alarm: see :class:`~lsa_lightning.callbacks.AdversarialTraining`.
        gated: whether the alarm's level multiplies gamma: without alarm there is no penalty, and no pass for it.
        unlabelled: inputs without labels that are regularized too, see :class:`~lsa_lightning.unlabelled.Unlabelled`;
            logs ``train/loss_lr_unlabelled``.

    Attributes:
        mvl: the current list, or None before the first analysis.
        history: one :class:`~lsa_lightning.layers.report.AnalysedEpoch` per analysed epoch: of several validation runs
            in it the last one's.

    Raises:
        ValueError: if an argument is outside its range.
        MisconfigurationException: as :class:`~lsa_lightning.callbacks.AdversarialTraining`; also for unknown layer
            names, and if the list is to be computed but the run has no validation batches.

    Source: arXiv 2202.02626, Algorithms 1 to 3.
    """

    @renamed(analysis_batches="analysis_limit_batches")
    def __init__(
        self,
        attack: Attack,
        objective: Objective | None = None,
        *,
        regularizer: LayerwiseRegularizer | None = None,
        layers: LayerSpec = None,
        mvl: Sequence[str] | SustainabilityReport | Selector | None = None,
        eta: float = 0.0,
        top_k: int | None = None,
        analysis_attack: Attack | None = None,
        analysis_every_n_epochs: int = 1,
        analysis_limit_batches: int | None = None,
        analysis_dataloader: int | str = 0,
        warmup_epochs: int = 0,
        input_space: InputSpace | tuple[Any, Any] | None = None,
        batch_fn: BatchFn | None = None,
        backbone: str | None = None,
        output_fn: OutputFn | None = None,
        target: Target | None = None,
        eps_warmup_epochs: float = 0.0,
        alarm: CollapseAlarm | None = None,
        gated: bool = False,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        super().__init__(
            attack,
            objective,
            input_space=input_space,
            batch_fn=batch_fn,
            backbone=backbone,
            output_fn=output_fn,
            target=target,
            eps_warmup_epochs=eps_warmup_epochs,
            alarm=alarm,
        )
        self.gated = flag(self, "gated", gated)
        if self.gated and self.alarm is None:
            refuse(self, "alarm", "a CollapseAlarm, by whose level gamma is gated", alarm)
        given = or_none(instance, self, "regularizer", regularizer, LayerwiseRegularizer)
        self.regularizer = given or LayerwiseRegularizer()
        self.layers = checked_layers(self, layers)
        self.eta = number(self, "eta", eta)
        self.top_k = or_none(integer, self, "top_k", top_k, low=1)
        self.selector = mvl if isinstance(mvl, Selector) else None
        if self.selector is not None and self.top_k is not None:
            refuse(self, "top_k", "None beside a selector, which has its own", top_k)
        self.fixed = mvl is not None and self.selector is None
        self._given = None if isinstance(mvl, Selector) else self._names(mvl)
        self.mvl = self._given
        own = or_none(instance, self, "analysis_attack", analysis_attack, Attack)
        self.analysis_attack = self.attack if own is None else self.target.in_space(own)
        never = 0 if self.fixed else 1
        self.analysis_every_n_epochs = integer(
            self, "analysis_every_n_epochs", analysis_every_n_epochs, low=never, also=" (0 for a fixed mvl alone)"
        )
        self.analysis_limit_batches = or_none(integer, self, "analysis_limit_batches", analysis_limit_batches, low=1)
        self.analysis_dataloader = loader_key(self, "analysis_dataloader", analysis_dataloader)
        self.warmup_epochs = integer(self, "warmup_epochs", warmup_epochs, low=0)
        theirs = or_none(instance, self, "unlabelled", unlabelled, Unlabelled)
        self.unlabelled = None if theirs is None else theirs.beside(attack, self.target.in_space)
        self._forget()

    def start_afresh(self) -> None:
        """Without a list, but for the user's own, and without a history."""
        super().start_afresh()
        self.analysis_attack.restart()
        if self.unlabelled is not None:
            self.unlabelled.restart()
        self.mvl = self._given
        self._forget()

    def start_fit(self) -> None:
        """See anew which calls a fixed list means, and what an epoch does that did not end."""
        super().start_fit()
        if self.fixed:
            self.mvl = self._given
        self._forget_epoch()

    def _forget(self) -> None:
        self.history: list[AnalysedEpoch] = []
        self._latest: SustainabilityReport | None = None
        self._awaited: int | None = None
        self._between = False
        self._warned_empty = False
        self._warned_unused = False
        self._guard = CollapseGuard()
        self._share = 0.0
        self._forget_epoch()

    def _forget_epoch(self) -> None:
        self._guard.forget_epoch()
        self._asked: set[str] = set()
        self._penalized: set[str] = set()
        self._still: set[str] = set()
        self._taught: set[str] = set()

    def _names(self, mvl: Sequence[str] | SustainabilityReport | None) -> list[str] | None:
        """A fixed list, at least one name; None if there is none."""
        names = mvl.most_vulnerable(self.eta, self.top_k) if isinstance(mvl, SustainabilityReport) else mvl
        return or_none(sequence, self, "mvl", [names] if isinstance(names, str) else names, each=text)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the combination and the names, then wrap ``training_step``."""
        twins = [callback for callback in trainer.callbacks if isinstance(callback, ATLR)]  # type: ignore[attr-defined]
        if len(twins) > 1:
            msg = f"expected one ATLR callback, whose list may hold several layers, got {len(twins)}"
            raise MisconfigurationException(msg)
        model = self.target.model(pl_module)
        gamma = self.regularizer.gamma
        weighted = [] if isinstance(gamma, float) else list(gamma)
        layers = [] if self.layers is None or isinstance(self.layers, type) else self.layers
        named = {"mvl": self.mvl or [], "layers": layers, "gamma": weighted}
        for argument, entries in named.items():
            names = [entry for entry in entries if isinstance(entry, str)]
            try:
                check_names_exist(model, names)
                check_softmax_once(model, names, self.regularizer.measure)
            except ValueError as error:
                msg = f"{argument}: {error}"
                raise MisconfigurationException(msg) from error
        if several := [name for name in weighted if means_all_learnable(model, name)]:
            msg = f"gamma: expected names of single layers, or one number for all, got {several}"
            raise MisconfigurationException(msg)
        if isinstance(self.regularizer.schedule, TrainingSchedule) and trainer.max_epochs == trainer.max_steps == -1:
            msg = "a schedule by the share of training expects max_epochs or max_steps, got neither"
            raise MisconfigurationException(msg)
        super().on_fit_start(trainer, pl_module)
        self._come_first(trainer)

    def _come_first(self, trainer: pl.Trainer) -> None:
        """Weight averaging takes its weights out at the end of validation: the analysis must see them at any place."""
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make up for an analysis that was awaited when the checkpoint was written."""
        super().on_train_start(trainer, pl_module)
        epoch = self._awaited
        if epoch is not None and self._is_analysed(epoch) and any(ValidationLoaders(trainer).limits):
            with _averages_in_place(trainer, pl_module):
                self._analyse_after(epoch, trainer, pl_module)
            self._log_now(trainer, epoch, trainer.global_step - 1)  # the step of the validation run's own values
        self._awaited = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how far training is, and which layers this step should penalise."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._between = False
        self._make_first_list(trainer, pl_module)  # in a resumed epoch, which does not start again
        self._share = _share_done(trainer, batch_idx)
        self._asked.update(self.penalized_layers(trainer.current_epoch))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """From here until validation, if it comes, an analysis is awaited."""
        super().on_train_batch_end(*args, **kwargs)
        self._between = True

    def prepare(self, model: nn.Module, x: Tensor) -> None:
        """See once which calls the names of the list mean; in a fixed one, ``relu`` stands for all its calls."""
        if self._sites or self.mvl is None:
            return
        with nullcontext() if self._step is None else self._step.quietly():
            if self.fixed:
                calls = self._calls_of(model, x)
                self._check_gamma(calls)
                self._asked = set(self.regularizer.weights(calls)) if self._asked else set()
                self.mvl = calls
            self._sites = call_sites(model, x)

    def _check_gamma(self, layers: Sequence[str]) -> None:
        """Whether the weights are those of layers that may be penalised: of all that are analysed, or of a list."""
        gamma = self.regularizer.gamma
        if isinstance(gamma, float):
            return
        meant = {name for layer in layers for name in (layer, layer.partition("#")[0])}
        unused = [name for name in gamma if name not in meant]
        msg = f"gamma: expected weights of the layers {list(layers)}, got those of {unused}, which are none of them"
        if len(unused) == len(gamma):
            raise MisconfigurationException(msg)
        if unused and not self.fixed and not self._warned_unused:
            self._warned_unused = True
            rank_zero_warn(msg)

    def _calls_of(self, model: nn.Module, x: Tensor) -> list[str]:
        """The calls that a fixed list means, in its order."""
        try:
            calls = [layer.name for layer in resolve_layers(model, self.mvl, x)]
        except ValueError as error:
            msg = f"mvl: {error}"
            raise MisconfigurationException(msg) from error
        names = self.mvl or []

        def place(call: str) -> int:
            meant = next((name for name in (call, call.partition("#")[0]) if name in names), ALL_LEARNABLE)
            return names.index(meant)

        return sorted(calls, key=place)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the first list, if this is a regularized epoch and there is none yet."""
        self._make_first_list(trainer, pl_module)

    def _make_first_list(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.mvl is None and trainer.current_epoch >= self.warmup_epochs:
            self._update_mvl(self._analyse(trainer, pl_module))
            self._log_now(trainer, trainer.current_epoch, trainer.global_step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Analyse, log, and choose the list that is used from here on."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._between = False
        if self._is_analysed(trainer.current_epoch):
            self._analyse_after(trainer.current_epoch, trainer, pl_module)
        for name, value in self._logged().items():
            log_own(self, pl_module, name, value, sync_dist=True)

    def _is_analysed(self, epoch: int) -> bool:
        every = self.analysis_every_n_epochs
        return every > 0 and (epoch + 1) % every == 0

    def _analyse_after(self, epoch: int, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        try:
            report = self._analyse(trainer, pl_module)
        except TooFewSamplesError as error:
            if not self.fixed:
                raise
            rank_zero_warn(f"The layers are not analysed: {error}.")
        else:
            self._update_mvl(report)
            self._remember(epoch, report)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if the penalty has killed a layer, or cannot teach it anything."""
        self._between = False
        # Nothing is logged in barebones mode, or where every batch was skipped.
        self._guard.check(float(trainer.callback_metrics.get("train/loss_base", math.nan)))
        never = sorted(self._asked - self._penalized)
        if never:
            rank_zero_warn(
                f"No step of this epoch ran the layers {never}, so they had no penalty: they run in eval mode, in "
                "which layers are analysed, and not, or behind other layers, in training. Name other layers."
            )
        if still := sorted(self._still - self._taught):
            rank_zero_warn(
                f"No parameter before the layers {still} trained in this epoch, so the penalty on them taught nothing: "
                "name other layers, or train what stands before them."
            )
        self._forget_epoch()

    @property
    def always_penalizes(self) -> bool:
        """Unless gated, or on unlabelled inputs alone."""
        return not self.gated and (self.unlabelled is None or not self.unlabelled.only)

    @property
    def looks_at_passes(self) -> bool:
        """Always: at what layers return."""
        return True

    def penalized_layers(self, epoch: int) -> list[str]:
        """The current MVL, without the layers whose gamma is 0 now; none if only unlabelled inputs are regularized."""
        return [] if self.unlabelled is not None and self.unlabelled.only else self._layers_now(epoch)

    def penalty_waits(self, epoch: int) -> bool:
        """Whether a ramp or the gate is at 0, and nothing else keeps the list from being penalised."""
        return (self.unlabelled is None or not self.unlabelled.only) and self._list_waits(epoch)

    def _list_waits(self, epoch: int) -> bool:
        if self._layers_now(epoch) or epoch < self.warmup_epochs:
            return False
        return any(self.regularizer.unscheduled(self.mvl or []).values())

    def _layers_now(self, epoch: int) -> list[str]:
        if epoch < self.warmup_epochs or not self.mvl or self._gate() == 0:
            return []
        weights = self.regularizer.weights(self.mvl, **self._now(epoch))
        return [name for name, gamma in weights.items() if gamma > 0]

    def _gate(self) -> float:
        return self.alarm.level if self.gated and self.alarm is not None else 1.0

    def penalty(self, clean: dict[str, Tensor], adversarial: dict[str, Tensor], y: Tensor, epoch: int) -> Tensor:
        """LR, Algorithm 3."""
        self._guard.update(clean, y)
        self._penalized |= clean.keys()
        return self._regularized(clean, adversarial, epoch)

    def _regularized(self, clean: dict[str, Tensor], adversarial: dict[str, Tensor], epoch: int) -> Tensor:
        taught = {name for name in clean if clean[name].requires_grad or adversarial[name].requires_grad}
        self._taught |= taught
        self._still |= clean.keys() - taught
        return self._gate() * self.regularizer(clean, adversarial, **self._now(epoch))

    def _now(self, epoch: int) -> dict[str, Any]:
        """How far training is, as the regularizer asks for it; a user's own may know of epochs alone."""
        by_share = isinstance(self.regularizer.schedule, TrainingSchedule)
        return {"epoch": epoch - self.warmup_epochs, **({"share": self._share} if by_share else {})}

    def total_loss(self, module: pl.LightningModule, loss: Tensor, passes: Passes, y: Tensor, samples: int) -> Tensor:
        """Also the penalty on unlabelled inputs; see :meth:`AdversarialTraining.total_loss`."""
        loss = super().total_loss(module, loss, passes, y, samples)
        if self.unlabelled is None or self._step is None or self._step.given is None:
            return loss
        layers = self._layers_now(module.current_epoch)
        if not layers:
            if self._list_waits(module.current_epoch):
                log_own_mean(self, module, "train/loss_lr_unlabelled", loss.new_zeros(()), samples)
            return loss
        model, x = self._step.given
        options: dict[str, Any] = {"sites": self._sites, "read": self.target.logits}
        with self._step.beside():
            inputs = self.unlabelled.draw(model, x, lambda attack: self.warmed_up(attack, module))
            both = both_representations(model, layers, *inputs, **options)
        penalty = self._regularized(*both, module.current_epoch)
        log_own_mean(self, module, "train/loss_lr_unlabelled", penalty, samples)
        return loss + penalty

    def state_dict(self) -> dict[str, Any]:
        """The list, its history and the attack's random generators: plain containers and tensors."""
        return {
            **super().state_dict(),
            "mvl": self.mvl,
            "history": stacked(self.history),
            "latest": None if self._latest is None else self._latest.to_dict(),
            **({} if self.unlabelled is None else {"unlabelled": self.unlabelled.state_dict()}),
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether an analysis is awaited: a resumed run leaves out the validation run that it would come after."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        awaited, fetcher = self._awaited, trainer.fit_loop._data_fetcher
        if self._between and fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher):
            awaited = trainer.current_epoch
        checkpoint["callbacks"][self.state_key]["awaited"] = awaited

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the checkpoint's list; one that was fixed by the user stays."""
        super().load_state_dict(state_dict)
        self.history = unstacked(state_dict["history"])
        self._awaited = state_dict.get("awaited")
        latest = state_dict.get("latest")  # before 0.2 it was not kept
        self._latest = None if latest is None else SustainabilityReport.from_dict(latest)
        if not self.fixed:
            self.mvl = state_dict["mvl"]
        own = self.own_part(state_dict)
        if self.unlabelled is not None and "unlabelled" in own:
            self.unlabelled.load_state_dict(own["unlabelled"])

    def _analyse(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> SustainabilityReport:
        validation_input = ValidationInput(pl_module, self.target)
        validating = trainer.validating
        # A fresh copy: every analysis draws the same random starts, and training's own are left alone.
        attack = self.analysis_attack.with_eps(self.analysis_attack.eps)
        # Loading and iterating dataloaders draws from the global random state, or from generators of their own, which
        # training must not notice.
        with (
            isolate_rng(),
            as_in_validation(trainer, pl_module),
            trainer.precision_plugin.forward_context(),
            off_the_record(pl_module),
        ):
            loaders = ValidationLoaders(trainer)
            with loaders.drawing_again():
                batches = self._validation_batches(loaders, pl_module, validation_input)
                first = _first_of(batches, pl_module, validating=validating)
                analysis = LayerSustainabilityAnalysis(
                    validation_input.model,
                    layers=self.layers,
                    measure=self.regularizer.measure,
                    output_fn=self.target.output_fn,
                )
                return analysis.run(chain(first, batches), attack, progress=False)

    def _validation_batches(
        self, loaders: ValidationLoaders, pl_module: pl.LightningModule, validation_input: ValidationInput
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Labels of one validation dataloader, and the inputs that ``validation_step`` gives to the model."""
        if not any(loaders.limits):
            msg = (
                "ATLR computes the MVL on validation batches, and this run has none: expected a validation dataloader, "
                "or a fixed list mvl=[...] with analysis_every_n_epochs=0"
            )
            raise MisconfigurationException(msg)
        index = loaders.index(self.analysis_dataloader, "analysis_dataloader")
        for batch_idx, batch in enumerate(loaders.batches(pl_module, index, self.analysis_limit_batches)):
            x, y = self.target.unpack(batch)
            if (real := loaders.real_samples(index, batch_idx, len(x))) > 0:
                own = first_samples(batch, len(x), real)
                x, y = self.target.unpack(own)
                given = validation_input.of(own, x, *loaders.numbers(index, batch_idx))
                if given is not None:
                    yield given, y

    def _update_mvl(self, report: SustainabilityReport) -> None:
        self._latest = rounded(report)
        if self.fixed:
            return
        self.mvl = self._chosen(report)
        self._check_gamma([*report.layers, *(name for name in self.mvl if name not in report.layers)])
        if not self.mvl and not self._warned_empty:
            self._warned_empty = True
            if self.selector is not None:
                rank_zero_warn(
                    f"{self.selector!r} chooses no layer from means {rounded(report).profile}. Until it does, this "
                    "trains as plain adversarial training."
                )
                return
            if len(report.layers) == 1:
                rank_zero_warn(
                    f"Only {report.layers[0]} is analysed, and Algorithm 1 cannot choose it: its mean is mu. Until it "
                    "is chosen, this trains as plain adversarial training; set top_k=1, or give it as mvl."
                )
                return
            rank_zero_warn(
                f"No layer is in the MVL: expected a mean {in_words(report.measure)} above mu + {self.eta:g} sigma, "
                f"got at most {float(report.z_scores.max()):+.3f} sigma "
                f"({report.layers[int(report.z_scores.argmax())]}). Until a layer is, this trains as plain adversarial "
                "training; lower eta or set top_k."
            )

    def _chosen(self, report: SustainabilityReport) -> list[str]:
        return report.most_vulnerable(self.eta, self.top_k) if self.selector is None else self.selector(report)

    def _remember(self, epoch: int, report: SustainabilityReport) -> None:
        entry = AnalysedEpoch(epoch, rounded(report), list(self.mvl or []))
        self.history = [old for old in self.history if old.epoch != epoch] + [entry]

    def _log_now(self, trainer: pl.Trainer, epoch: int, step: int) -> None:
        """What was found, as that of ``epoch`` and ``step``, at this moment.

        Not through ``log``, whose value of this moment would come at the end of the epoch and replace a newer one.
        """
        if trainer.barebones:
            return
        values = self._logged()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": epoch, **values}, step=step)

    def _logged(self) -> dict[str, float]:
        """The latest report in figures; empty before there is one."""
        mvl, report = self.mvl or [], self._latest
        if report is None:
            return {}
        values = {"lsa/mu": float(report.mu), "lsa/sigma": float(report.sigma), "lsa/mvl_size": float(len(mvl))}
        for index, (layer, mean) in enumerate(zip(report.layers, report.mean.tolist(), strict=True)):
            values[f"lsa/{report.measure}/{index:02d}_{layer}"] = mean
            values[f"lsa/in_mvl/{index:02d}_{layer}"] = float(layer in mvl)
        return values


def _first_of(
    batches: Iterator[tuple[Tensor, Tensor]], module: pl.LightningModule, *, validating: bool
) -> list[tuple[Tensor, Tensor]]:
    """The first batch, which shows how ``validation_step`` calls the model, if there is one."""
    try:
        return list(islice(batches, 1))
    except AttributeError as error:
        if validating:
            raise
        msg = (
            f"validation_step, which ATLR runs up to the call of the model, raised AttributeError ({error}) outside of "
            f"a validation run: expected {type(module).__name__} to have in __init__ what its hooks of validation "
            "make, or a sanity check before (num_sanity_val_steps > 0)"
        )
        raise MisconfigurationException(msg) from error


@contextmanager
def _averages_in_place(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Inside, the module has the weights that Lightning's weight averaging would have it validated with."""
    averaging = [each for each in trainer.callbacks if isinstance(getattr(each, "_average_model", None), nn.Module)]  # type: ignore[attr-defined]
    for each in averaging:
        each.on_validation_epoch_start(trainer, module)
    try:
        yield
    finally:
        for each in averaging:
            each.on_validation_epoch_end(trainer, module)


def _share_done(trainer: pl.Trainer, batch_idx: int) -> float:
    """The share of training that is done when a batch begins, by epochs or by steps, of which the first ends it."""
    # The number of batches is infinite where it is not known: then the share grows epoch by epoch.
    epochs = trainer.current_epoch + batch_idx / trainer.num_training_batches
    ends = [(epochs, trainer.max_epochs), (trainer.global_step, trainer.max_steps)]
    return min(1.0, max((done / end for done, end in ends if end is not None and end > 0), default=0.0))
