"""What lies in examples/ opens without training."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from lsa_lightning.functional import predicted_labels
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.checkpoint import load_run, split_loader
from lsa_lightning.runs.read import read_run

EXAMPLE = Path(__file__).parents[1] / "examples" / "moon"


def test_the_page_of_the_example_shows_its_figures(tmp_path: Path) -> None:
    report = write_report([EXAMPLE], tmp_path / "report.html")
    assert report.unread == []
    page = report.file.read_text()
    assert "moon_at_lr" in page
    assert page.count("data:image/") == 7


def test_each_figure_is_there_once_and_says_which_run_it_is_of() -> None:
    figures = list((EXAMPLE / "figures").iterdir())
    assert len({file.stem for file in figures}) == len(figures) == 7
    assert [file.name for file in figures if file.suffix == ".svg" and "<!-- run: " not in file.read_text()] == []


def test_the_weights_are_those_that_were_measured() -> None:
    run = load_run(str(EXAMPLE / "checkpoints" / "best.ckpt"))
    summary = read_run(EXAMPLE).summary
    hits = [predicted_labels(run.model(x)).cpu() == y.flatten() for x, y in split_loader(run.data, "test")]
    assert summary.metrics["accuracy/clean"] == round(float(torch.cat(hits).double().mean()) * 100, 2)


def test_the_example_is_small_and_names_no_machine() -> None:
    files = [file for file in EXAMPLE.rglob("*") if file.is_file() and file.name != "report.html"]
    assert sum(file.stat().st_size for file in files) < 600_000
    texts = [file.read_text() for file in files if file.suffix in (".yaml", ".json", ".csv")]
    absolute = re.compile(r"""(?:^|[\s"':=])/\w+/""", re.MULTILINE)
    assert [found.group() for text in texts for found in absolute.finditer(text)] == []
