"""What all callbacks share: they begin afresh with every Trainer and module, and run with ``lightning.pytorch``."""

from __future__ import annotations

from typing import Any
from weakref import ref

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lsa_lightning.utils.distributed import gathered, place


class FreshCallback(pl.Callback):
    """A callback that one list may hold for many fits, as for the folds of a cross-validation.

    Subclasses say in :meth:`start_afresh` what a fit must not know of the one before. A fit with ``ckpt_path`` goes on
    with what the checkpoint holds, and with that alone. A further fit of the same module in the same Trainer, as with a
    higher ``max_epochs`` or after Ctrl-C, goes on from the last whole epoch, and so does the callback; what it must see
    anew even then, subclasses say in :meth:`start_fit`.

    Raises:
        MisconfigurationException: at the start, if the Trainer or the module is that of ``pytorch_lightning``.
    """

    of_each_process: tuple[str, ...] = ()
    """What in its state each process of a distributed run has of its own, as random numbers; a checkpoint has all."""

    _latest_fit: tuple[ref[pl.Trainer], ref[pl.LightningModule]] | None = None
    _goes_on = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse the other package, and forget the fit before, unless this one goes on with it."""
        for given, expected in ((trainer, pl.Trainer), (pl_module, pl.LightningModule)):
            if not isinstance(given, expected):
                msg = (
                    f"expected a {expected.__name__} of lightning.pytorch, whose callback {type(self).__name__} is, "
                    f"got {type(given).__module__}.{type(given).__qualname__}, as pytorch_lightning has them: "
                    "write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`"
                )
                raise MisconfigurationException(msg)
        if stage == "fit":
            this = ref(trainer), ref(pl_module)
            self._goes_on, self._latest_fit = self._latest_fit == this, this
            self.start_fit()
            if not self._goes_on:
                self.start_afresh()

    def start_afresh(self) -> None:
        """Forget what the callback knows from an earlier fit; nothing here."""

    def start_fit(self) -> None:
        """Forget what every fit must see anew: an epoch that did not end, how the module is built; nothing here."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Forget an earlier fit of the same Trainer, also where the checkpoint knows nothing of this callback."""
        if self._goes_on and trainer.state.fn == TrainerFn.FITTING:
            self._goes_on = False
            self.start_afresh()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Of several processes the first alone writes its state: it gets what the others have of their own."""
        state = checkpoint["callbacks"].get(self.state_key, {})
        own = {name: state[name] for name in self.of_each_process if name in state}
        if own and place()[1] > 1 and not trainer.interrupted:  # a process that failed is alone
            state[_PROCESSES] = gathered(apply_to_collection(own, Tensor, Tensor.cpu))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest_fit": None}  # a copy has taken part in none, and a weak reference has no copy

    def own_part(self, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's state with what this process had of its own; without, if it did not exist."""
        rank, others = place()[0], state.get(_PROCESSES, [state])
        own = others[rank] if rank < len(others) else {}
        shared = {name: value for name, value in state.items() if name not in (*self.of_each_process, _PROCESSES)}
        return {**shared, **{name: own[name] for name in self.of_each_process if name in own}}


_PROCESSES = "processes"
