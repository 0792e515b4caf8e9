"""Checkpoints that are whole at any moment, on any file system."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from hydra.utils import instantiate
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig

from lsa_lightning.utils.files import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, reads it back, and only then lets it take the target's place.

    Lightning's own goes through ``$TMPDIR``; where that is another file system, it is copied over the old checkpoint,
    and a kill or a full disk at that moment leaves neither. Targets that are no local files are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            OSError: naming ``path``, if it could not be written or read back; what was there is kept.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch turns what goes wrong in writing a file, as a full disk, into a RuntimeError
        torch.save(checkpoint, content)
        with replacing(path) as new:
            new.write_bytes(content.getvalue())  # no view of it: one in a traceback crashes Python 3.12.1's collector
            _check_readable(new)


def plugins_of(node: DictConfig) -> list[Any]:
    """The trainer's plugins: the configuration's, and checkpoints that are whole, unless it writes them otherwise."""
    plugins = list(instantiate(node.get("plugins") or [], _convert_="all"))
    own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    return plugins if own else [*plugins, WholeCheckpointIO()]


def _check_readable(file: Path) -> None:
    """Compare the checksums of all that a checkpoint holds."""
    try:
        with ZipFile(file) as archive:
            broken = archive.testzip()
    except BadZipFile as error:
        msg = f"it cannot be read back: {error}"
        raise OSError(msg) from error
    if broken is not None:
        msg = f"it cannot be read back: {broken} is broken"
        raise OSError(msg)
