"""Files are whole, whatever happens while they are written."""

import errno
import os
from pathlib import Path

import pytest

from lsa_lightning.utils.files import replacing, write_text


def test_a_file_is_replaced_when_its_new_content_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.json"
    for text in ("one", "zwei ü"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_the_ending_of_the_new_file_is_that_of_the_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.png") as new:
        assert (new.parent, new.suffix) == (tmp_path, ".png")
        new.touch()


def test_after_an_error_the_former_content_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "former")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "former")
    with pytest.raises(OSError, match="former content is kept: No space left") as caught, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.filename, caught.value.errno) == (str(path), errno.ENOSPC)
    assert path.read_text() == "former"
