"""What all callbacks share: they begin every fit afresh, and run with ``lightning.pytorch``."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException


class FreshCallback(pl.Callback):
    """A callback that one list may hold for many fits, as for the folds of a cross-validation.

    Subclasses say in :meth:`start_afresh` what a fit must not know of the one before. It is called before a checkpoint
    is read, so a fit with ``ckpt_path`` continues with what that holds.

    Raises:
        MisconfigurationException: at the start, if the Trainer or the module is that of ``pytorch_lightning``.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse the other package, and forget the fit before."""
        for given, expected in ((trainer, pl.Trainer), (pl_module, pl.LightningModule)):
            if not isinstance(given, expected):
                msg = (
                    f"expected a {expected.__name__} of lightning.pytorch, whose callback {type(self).__name__} is, "
                    f"got {type(given).__module__}.{type(given).__qualname__}, as pytorch_lightning has them: "
                    "write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`"
                )
                raise MisconfigurationException(msg)
        if stage == "fit":
            self.start_afresh()

    def start_afresh(self) -> None:
        """Forget what the callback knows from an earlier fit; nothing here."""
