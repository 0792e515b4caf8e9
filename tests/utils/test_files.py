"""Files are whole, whatever happens while they are written."""

import errno
import os
from io import FileIO
from pathlib import Path
from unittest.mock import patch

import pytest

from lsa_lightning.utils.files import append_text, remove_parts, replacing, write_text


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


def test_a_new_file_has_no_former_content(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not write this file: No space left"), replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_are_added_whole_or_not_at_all(tmp_path: Path) -> None:
    append_text(tmp_path / "a.txt", "one\n")

    def full(file: FileIO, content: bytes) -> None:
        file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with patch("lsa_lightning.utils.files._write_all", full), pytest.raises(OSError, match=r"could not write.*a\.txt"):
        append_text(tmp_path / "a.txt", "two\n")
    append_text(tmp_path / "a.txt", "three\n")
    assert (tmp_path / "a.txt").read_text() == "one\nthree\n"


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (".a.12.part.txt", "sub/.last.7.part", ".hidden", "a.part.txt"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".hidden", "a.part.txt"]
