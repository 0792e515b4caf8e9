"""The files behind torchvision's data sets: which they are, whether they are whole, and fetching them atomically."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple


class DataFile(NamedTuple):
    """A file that a data set reads."""

    path: Path
    md5: str | None
    """Its checksum, where the data set has one and tests it."""


def expected_files(dataset_cls: Any, root: Path) -> list[DataFile]:
    """The files that a torchvision data set class reads under ``root``.

    Known are the families of MNIST, CIFAR and SVHN, by the class attributes in which they list their files. Any other
    class gives an empty list: its files are its own business. A class with a ``_check_integrity`` of its own answers
    for the checksums itself.
    """
    if hasattr(dataset_cls, "resources"):
        folder = root / dataset_cls.__name__ / "raw"
        return [DataFile(folder / Path(name).stem, None) for name, _ in dataset_cls.resources]
    if hasattr(dataset_cls, "train_list"):
        folder, meta = root / dataset_cls.base_folder, dataset_cls.meta
        listed = [*dataset_cls.train_list, *dataset_cls.test_list, (meta["filename"], meta["md5"])]
        files = [DataFile(folder / name, md5) for name, md5 in listed]
    else:
        splits = getattr(dataset_cls, "split_list", {})
        files = [DataFile(root / splits[name][1], splits[name][2]) for name in ("train", "test") if name in splits]
    return files if has_checksums(dataset_cls) else [file._replace(md5=None) for file in files]


def has_checksums(dataset_cls: Any) -> bool:
    """Whether the class tests checksums, with torchvision's own code."""
    check = getattr(dataset_cls, "_check_integrity", None)
    return check is not None and check.__module__.startswith("torchvision.")


def missing(files: Iterable[DataFile]) -> list[Path]:
    """Those that do not exist."""
    return [file.path for file in files if not file.path.is_file()]


def check_md5(files: Iterable[DataFile]) -> None:
    """Compare with the checksums that are known.

    Raises:
        ValueError: for the first file that differs, with both checksums.
    """
    for file in files:
        if file.md5 is None:
            continue
        got = hashlib.md5(file.path.read_bytes(), usedforsecurity=False).hexdigest()
        if got != file.md5:
            msg = (
                f"expected {file.path} to have the MD5 checksum {file.md5}, got {got}: the file is truncated or "
                "another one; remove it to download it again"
            )
            raise ValueError(msg)


def where_to_put(dataset_cls: Any, files: Iterable[DataFile], reason: str) -> str:
    """The message for a data set that is not there."""
    lines = "".join(f"\n  {path}" for path in missing(files))
    source = getattr(dataset_cls, "url", None) or next(iter(getattr(dataset_cls, "mirrors", [])), None)
    hint = f" They come (packed) from {source}." if source else ""
    return f"{reason} Put these files of {dataset_cls.__name__} there yourself:{lines}\n{hint}".rstrip()


def fetch(dataset_cls: Any, files: Iterable[DataFile], root: Path, download: Callable[[Path], Any]) -> None:
    """Download into a temporary folder inside ``root``, then move file by file to the final place.

    A move replaces a whole file or nothing, so that an interruption leaves only complete files behind, and a data set
    with a missing file is fetched anew.

    Args:
        dataset_cls: named in the error.
        files: what should be there afterwards.
        root: the final folder; made if need be.
        download: ``folder -> anything``: downloads the data set into ``folder``.

    Raises:
        FileNotFoundError: if the download fails; the message says where to put which files.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{dataset_cls.__name__} is not under {root}, which cannot be made ({error.strerror})."
        raise FileNotFoundError(where_to_put(dataset_cls, files, reason)) from None
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
        try:
            download(Path(folder))
        except (OSError, RuntimeError, HTTPException) as error:
            reason = f"{dataset_cls.__name__} is not under {root}, and downloading it failed ({_short(error)})."
            raise FileNotFoundError(where_to_put(dataset_cls, files, reason)) from None
        for source in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            target = root / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
