"""Accuracy under attack, measured in every validation run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import MeanMetric

from lsa_lightning.attacks import Attack, InputSpace
from lsa_lightning.callbacks.target import Target
from lsa_lightning.evaluation import correct
from lsa_lightning.functional import robustness_generalization_score
from lsa_lightning.utils.batch import BatchFn
from lsa_lightning.utils.isolation import preserved_random_state
from lsa_lightning.utils.outputs import OutputFn
from lsa_lightning.utils.renamed import renamed


class RobustValidation(pl.Callback):
    """Logs ``val/acc_clean``, ``val/acc_<attack>`` (each in [0, 1]) and ``val/rg_score`` (percent, summed over eps).

    Works in ``trainer.fit`` and in ``trainer.validate``; sanity checks are skipped.

    Args:
        attacks: attack by the name used in the key.
        rg_attack: name of the attack whose accuracies make up R&G; None: no R&G.
        rg_eps: the radii of R&G, besides the clean column; each > 0.
        every_n_epochs: run in every n-th epoch of a fit, >= 1.
        limit_batches: batches per dataloader and process, >= 1; None: all.
        input_space: ``(mean, std)`` or an :class:`~lsa_lightning.attacks.InputSpace` if batches are normalised; ``eps``
            and ``bounds`` are then in pixels.
        batch_fn: ``batch -> (x, y)``; default :func:`~lsa_lightning.utils.batch.read_batch`.
        backbone: name of the submodule that maps x to logits; None: the LightningModule's forward.
        output_fn: ``output -> logits``, for a model that returns neither a tensor nor one named ``logits``.
        target: these four in one :class:`~lsa_lightning.callbacks.Target`, instead of them.

    Raises:
        ValueError: if an argument is outside its range, or R&G is asked for with an attack that is not there.
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
        input_space: InputSpace | tuple[Any, Any] | None = None,
        batch_fn: BatchFn | None = None,
        backbone: str | None = None,
        output_fn: OutputFn | None = None,
        target: Target | None = None,
    ) -> None:
        if not isinstance(attacks, Mapping):
            msg = f"expected attacks by name, such as {{'pgd': PGD(eps=8/255)}}, got {attacks!r}"
            raise ValueError(msg)
        if rg_attack is not None and (rg_attack not in attacks or not rg_eps or min(rg_eps) <= 0):
            msg = f"expected rg_attack among {list(attacks)} and every rg_eps > 0, got {rg_attack!r} and {list(rg_eps)}"
            raise ValueError(msg)
        if every_n_epochs < 1 or (limit_batches is not None and limit_batches < 1):
            got = f"{every_n_epochs} and {limit_batches}"
            msg = f"expected every_n_epochs >= 1 and limit_batches >= 1 or None, got {got}"
            raise ValueError(msg)
        self.target = Target.of(
            target, input_space=input_space, batch_fn=batch_fn, backbone=backbone, output_fn=output_fn
        )
        self.attacks = {name: self.target.in_space(attack) for name, attack in attacks.items()}
        self.rg_attacks = {f"rg_{eps:g}": self.attacks[rg_attack].with_eps(eps) for eps in rg_eps} if rg_attack else {}
        self.every_n_epochs = every_n_epochs
        self.limit_batches = limit_batches
        self._accuracy: dict[str, MeanMetric] = {}
        self._fresh: dict[str, Attack] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with empty sums, or none if this run is not measured."""
        # Fresh copies: every run draws the same random starts, so that epochs differ by their weights alone.
        self._fresh = {k: a.with_eps(a.eps) for k, a in {**self.attacks, **self.rg_attacks}.items()}
        names = ["clean", *self._fresh] if self._is_due(trainer) else []
        self._accuracy = {name: MeanMetric().to(pl_module.device) for name in names}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count hits on this batch."""
        if not self._accuracy or (self.limit_batches is not None and batch_idx >= self.limit_batches):
            return
        model = self.target.model(pl_module)
        x, y = self.target.unpack(batch)
        with trainer.precision_plugin.forward_context(), preserved_random_state(x.device):
            self._accuracy["clean"].update(correct(model, x, y, self.target.output_fn).float())
            for name, attack in self._fresh.items():
                self._accuracy[name].update(correct(model, attack(model, x, y), y, self.target.output_fn).float())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reduce over processes and log."""
        if not self._accuracy:
            return
        accuracy = {name: float(metric.compute()) for name, metric in self._accuracy.items()}
        values = {"val/acc_clean": accuracy["clean"], **{f"val/acc_{name}": accuracy[name] for name in self.attacks}}
        pl_module.log_dict(values, sync_dist=True, prog_bar=True)
        if self.rg_attacks:
            score = robustness_generalization_score(100 * accuracy[name] for name in ["clean", *self.rg_attacks])
            pl_module.log("val/rg_score", score, sync_dist=True)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        # trainer.validating is also true in the validation runs of a fit.
        return trainer.state.fn != TrainerFn.FITTING or (trainer.current_epoch + 1) % self.every_n_epochs == 0
