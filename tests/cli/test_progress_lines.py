"""What a run prints where there is no terminal, as in the .out file of a cluster, and what train.log holds."""

from __future__ import annotations

import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from tests.helpers.hydra_run import QUIET, TINY, main_in_process

from lsa_lightning.cli.train import main

SETTINGS = [*(setting for setting in TINY if setting not in QUIET), "+trainer.enable_model_summary=false"]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO "


def run(folder: Path, *args: str) -> None:
    main_in_process(main, *SETTINGS, f"hydra.run.dir={folder}", *args)


def log_of(folder: Path) -> list[str]:
    return (folder / "train.log").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "run"


@pytest.fixture(scope="module")
def printed(folder: Path) -> tuple[str, str]:
    """Output and error stream of a run of two epochs."""
    output, error = StringIO(), StringIO()
    with redirect_stdout(output), redirect_stderr(error):
        run(folder, "trainer.max_epochs=2")
    return output.getvalue(), error.getvalue()


def test_epochs_and_stages_have_their_lines_in_order(printed: tuple[str, str]) -> None:
    lines = [re.sub(TIME, "", line) for line in printed[0].splitlines() if re.match(TIME, line)]
    ours = [line for line in lines if re.match(r"Training|Epoch|Analysing|Evaluating|Checking", line)]
    names = [re.sub(r"[\d:]{7,}.*|: loss .*", "", line).strip() for line in ours]
    assert names == [
        "Training: from epoch 1/2, under PGD at eps 0.3",
        "Epoch 1/2",
        "Epoch 2/2",
        "Training: done in",
        "Analysing",
        "Analysing: done in",
        "Evaluating",
        "Evaluating: done in",
        "Checking for masked gradients",
        "Checking for masked gradients: done in",
    ]
    figures = r"Epoch 1/2: loss [\d.]+, clean [\d.]+ %, pgd [\d.]+ %, regularizes .+, 0:00:\d\d left"
    assert re.fullmatch(figures, next(line for line in ours if line.startswith("Epoch 1/2")))


def test_the_log_has_every_line_that_was_printed_and_no_line_twice(folder: Path, printed: tuple[str, str]) -> None:
    log = log_of(folder)
    lines = [line for line in printed[0].splitlines() if re.match(TIME, line)]
    assert len(lines) >= 10  # ours; Lightning adds its own, unless an earlier test has silenced it
    assert len(set(lines)) == len(lines)
    assert [line for line in log if line in lines] == lines
    results = [line.rstrip() for line in printed[0].splitlines() if "backbone.act" in line or line.startswith("R&G")]
    assert results
    for result in results:
        assert sum(line.rstrip().endswith(result) for line in log) == 1


def test_nothing_of_it_is_coloured_or_on_the_error_stream(folder: Path, printed: tuple[str, str]) -> None:
    assert "\x1b" not in printed[0]
    assert "\x1b" not in "".join(log_of(folder))
    assert "Epoch" not in printed[1]
    assert "INFO" not in printed[1]


def test_a_resumed_run_goes_on_in_its_log(
    folder: Path, printed: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = log_of(folder)
    main_in_process(main, f"resume={folder}", "trainer.max_epochs=3")
    log = log_of(folder)
    assert log[: len(before)] == before
    rest = [re.sub(TIME, "", line) for line in log[len(before) :]]
    assert "Training: from epoch 3/3, under PGD at eps 0.3" in rest
    assert [line.partition(":")[0] for line in rest if line.startswith("Epoch")] == ["Epoch 3/3"]
