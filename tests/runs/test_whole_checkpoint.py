"""A checkpoint replaces the one before only when it is readable."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lsa_lightning.runs.whole_checkpoint import WholeCheckpointIO

OLD, NEW = {"weight": torch.zeros(1000)}, {"weight": torch.ones(1000)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    WholeCheckpointIO().save_checkpoint(OLD, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path / "checkpoints" / "last.ckpt"


def test_what_was_saved_is_loaded(path: Path) -> None:
    WholeCheckpointIO().save_checkpoint(NEW, path)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], NEW["weight"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_nothing_goes_through_the_folder_of_temporary_files(path: Path) -> None:
    with patch("tempfile.mkstemp", side_effect=AssertionError):
        WholeCheckpointIO().save_checkpoint(NEW, path)


def _cut(file: Path, content: bytes) -> int:
    with file.open("wb") as out:
        return out.write(content[: len(content) // 2])


def _damaged(file: Path, content: bytes) -> int:
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    with file.open("wb") as out:
        return out.write(damaged)


def _no_space(file: Path, content: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", [_cut, _damaged, _no_space])
def test_one_that_cannot_be_read_back_leaves_the_old_one(path: Path, write: object) -> None:
    with (
        patch.object(Path, "write_bytes", write),
        pytest.raises(OSError, match=r"could not write this file.*last\.ckpt"),
    ):
        WholeCheckpointIO().save_checkpoint(NEW, path)
    gc.collect()
    assert torch.equal(torch.load(path, weights_only=True)["weight"], OLD["weight"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
