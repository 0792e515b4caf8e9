"""The file of finished batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsa_lightning.evaluation.state import FinishedBatches, digest

HEADER = {"attacks": {"fgsm": "FGSM(eps=0.1)"}, "eps": [0.1, 0.2]}
COUNTS = {"samples": 8, "clean": 7}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with batches 0 and 1."""
    path = tmp_path / "folder" / "state.jsonl"
    finished = FinishedBatches(path, HEADER)
    for index in (0, 1):
        finished.note(index, 100 + index, COUNTS)
    return path


def test_what_was_noted_is_recalled(file: Path) -> None:
    finished = FinishedBatches(file, HEADER)
    assert finished.recall(1, 101) == COUNTS
    assert finished.recall(2, 102) is None


def test_a_line_that_was_cut_off_is_left_out_and_written_anew(file: Path) -> None:
    whole = file.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        file.write_text(whole[:-cut])
        finished = FinishedBatches(file, HEADER)
        assert finished.recall(0, 100) == COUNTS
        assert finished.recall(1, 101) is None
        finished.note(1, 101, COUNTS)
        assert file.read_text() == whole


def test_a_header_that_was_cut_off_is_written_anew(file: Path) -> None:
    file.write_text(file.read_text()[:5])
    finished = FinishedBatches(file, HEADER)
    finished.note(0, 100, COUNTS)
    assert FinishedBatches(file, HEADER).recall(0, 100) == COUNTS


def test_other_data_and_another_header_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"expected batch 0 to be the one noted in .*do not shuffle"):
        FinishedBatches(file, HEADER).recall(0, 101)
    with pytest.raises(ValueError, match=r"state.jsonl to belong to this .*its .* is .*, not .*; give another file"):
        FinishedBatches(file, {**HEADER, "eps": [0.1]})


@pytest.mark.parametrize("content", ["junk\n", "[1, 2]\n3\n", '{"a": 1}\n{"b": 2}\n'])
def test_a_file_of_something_else_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ValueError, match=r"expected .*state.jsonl to be"):
        FinishedBatches(file, HEADER)


def test_a_file_that_begins_otherwise_is_quoted(file: Path) -> None:
    file.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"but it begins with \[1, 2\]; give another file"):
        FinishedBatches(file, HEADER)


def test_every_process_writes_its_own_file_and_reads_all(file: Path) -> None:
    second = FinishedBatches(file, HEADER, rank=1)
    assert second.recall(0, 100) == COUNTS
    second.note(2, 102, COUNTS)
    assert len(file.read_text().splitlines()) == 3
    assert FinishedBatches(file, HEADER).recall(2, 102) == COUNTS


def test_without_a_file_nothing_is_noted() -> None:
    finished = FinishedBatches(None, HEADER)
    finished.note(0, 100, COUNTS)
    assert finished.recall(0, 100) is None


def test_the_digest_tells_bytes_and_names_apart() -> None:
    x = torch.arange(4.0)
    same = digest({"x": x})
    assert digest({"x": x.clone()}) == same
    assert digest({"x": x.view(2, 2).T.contiguous().T.flatten()}) == same
    assert len({same, digest({"y": x}), digest({"x": x.flip(0)}), digest({"x": x.bfloat16()})}) == 4
