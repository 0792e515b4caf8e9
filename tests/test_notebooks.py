"""The notebooks, run from clean kernels; what is stored in them is what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))

LAST_TABLE = {
    "01_lsa_in_ten_lines": ("backbone.act1", "backbone.act2", "backbone.act3", "z_score"),
    "02_add_atlr_to_your_project": ("epoch", "mu", "MVL", "net."),
    "03_read_a_sweep": ("gamma", "clean", "PGD 0.3", "R&amp;G", "mean", "std"),
}


def outputs(notebook: Any) -> list[list[Any]]:
    """Outputs of each code cell."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: Any) -> list[list[tuple[str, list[str]]]]:
    """What sort of outputs each code cell has."""
    return [[(output.output_type, sorted(output.get("data", {}))) for output in cell] for cell in outputs(notebook)]


def tables(notebook: Any) -> list[str]:
    return [
        output.data["text/html"]
        for cell in outputs(notebook)
        for output in cell
        if "text/html" in output.get("data", {})
    ]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(LAST_TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    stored = kinds(notebook)
    for cell in outputs(notebook):
        cell.clear()
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert kinds(notebook) == stored
    assert all(text in tables(notebook)[-1] for text in LAST_TABLE[path.stem])
    assert "NaN" not in "".join(tables(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_small_quiet_and_from_no_particular_machine(path: Path) -> None:
    assert path.stat().st_size < 100_000
    notebook = nbformat.read(path, as_version=4)
    everything = [output for cell in outputs(notebook) for output in cell]
    assert {output.output_type for output in everything} <= {"execute_result", "stream"}
    assert all(output.name == "stdout" for output in everything if output.output_type == "stream")
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in everything)
    assert not [word for word in ("/tmp", "/home", "/root", "/Users", ":\\", "Warning", "object at 0x") if word in text]
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [
        *range(1, 1 + len(outputs(notebook)))
    ]
    assert tables(notebook)


def test_ten_lines_are_ten_lines() -> None:
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if cell.cell_type == "code"]
    (ten,) = [source for source in cells if "LayerSustainabilityAnalysis(model)" in source]
    assert len([line for line in ten.splitlines() if line.strip()]) == 10
