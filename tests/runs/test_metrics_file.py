"""metrics.csv of a run that is interrupted and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from lsa_lightning.runs.metrics_file import MetricsLogger


def _logger(folder: Path) -> MetricsLogger:
    return MetricsLogger(folder, name="", version="")


def _log(logger: MetricsLogger, steps: Sequence[int], **more: float) -> MetricsLogger:
    for step in steps:
        logger.log_metrics({"loss": step / 2, **more}, step=step)
        logger.save()
    return logger


def _text(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


@pytest.fixture
def whole(tmp_path: Path) -> str:
    _log(_log(_logger(tmp_path / "whole"), range(3)), range(3, 6), acc=0.5)
    return _text(tmp_path / "whole")


@pytest.mark.parametrize("rows", range(7))
def test_a_file_that_goes_on_equals_one_that_was_never_interrupted(tmp_path: Path, whole: str, rows: int) -> None:
    _log(_log(_logger(tmp_path), range(3)), range(3, 6), acc=0.5)  # also rows after the checkpoint
    resumed = _logger(tmp_path)
    resumed.experiment.keep(rows, step=rows)
    _log(_log(resumed, range(rows, 3)), range(max(rows, 3), 6), acc=0.5)
    assert _text(tmp_path) == whole


def test_rows_are_counted(tmp_path: Path) -> None:
    assert _log(_logger(tmp_path), range(4)).rows == 4


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path, whole: str) -> None:
    (tmp_path / "metrics.csv").write_text(whole[:-4])
    logger = _logger(tmp_path)
    logger.experiment.keep(5, step=5)
    assert _text(_log(logger, [5], acc=0.5).experiment.path.parent) == whole


def test_lost_rows_are_warned_of(tmp_path: Path, whole: str) -> None:
    (tmp_path / "metrics.csv").write_text(whole)
    with pytest.warns(UserWarning, match="holds 6 of the 8 rows"):
        _logger(tmp_path).experiment.keep(8, step=8)


def test_without_a_number_of_rows_those_of_earlier_steps_are_kept(tmp_path: Path, whole: str) -> None:
    (tmp_path / "metrics.csv").write_text(whole)
    logger = _logger(tmp_path)
    logger.experiment.keep(None, step=4)
    assert logger.rows == 4


def test_only_a_new_column_rewrites_the_file(tmp_path: Path) -> None:
    logger = _log(_logger(tmp_path), [0])
    with patch("lsa_lightning.runs.metrics_file.write_text", side_effect=AssertionError) as rewritten:
        _log(logger, range(1, 50))
        with pytest.raises(AssertionError):
            _log(logger, [50], acc=1.0)
    assert rewritten.call_count == 1
