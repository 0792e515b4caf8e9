"""The pages that are made from code and files, and the links of the README."""

from __future__ import annotations

import json
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from scripts.docs_pages import public_names, write_api, write_results

import lsa_lightning
from lsa_lightning.attacks import PGD

ROOT = Path(__file__).parents[1]
PAGE_OF = re.compile(r"^\.\. auto(?:class|function|data):: (\S+)\.(\w+)$", re.MULTILINE)


def documented(folder: Path) -> list[Any]:
    """What the pages in a folder are about, each one imported by the path that its page names."""
    found = [match.groups() for file in folder.glob("*.rst") for match in PAGE_OF.finditer(file.read_text())]
    return [getattr(import_module(module), name) for module, name in found]


def exported() -> dict[str, Any]:
    """Each name in the ``__all__`` of a package, at any depth."""
    packages = [found.name for found in pkgutil.walk_packages(lsa_lightning.__path__, "lsa_lightning.") if found.ispkg]
    return {
        f"{package.__name__}.{name}": getattr(package, name)
        for package in [lsa_lightning, *map(import_module, packages)]
        for name in getattr(package, "__all__", [])
    }


def test_every_public_name_has_a_page(tmp_path: Path) -> None:
    write_api(tmp_path / "api")
    pages = {id(value) for value in documented(tmp_path / "api")}
    names = exported()
    assert len(names) > 100
    assert [name for name, value in names.items() if id(value) not in pages] == []


@pytest.mark.parametrize(
    "path",
    [
        "lsa_lightning.measures.ComparisonMeasure",
        "lsa_lightning.objectives.TRADES",
        "lsa_lightning.regularizers.LinearRamp",
        "lsa_lightning.runs.loggers.ResultLogger",
        "lsa_lightning.__version__",
    ],
)
def test_so_does_what_users_extend_outside_of_packages(path: str) -> None:
    assert path in {each.path for names in public_names().values() for each in names}


def test_a_name_has_one_page() -> None:
    paths = [each.path for names in public_names().values() for each in names if each.value is PGD]
    assert paths == ["lsa_lightning.attacks.PGD"]


def test_the_page_of_results_is_about_every_file(tmp_path: Path) -> None:
    write_results(tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    files = [*ROOT.glob("benchmarks/results/*.json"), *ROOT.glob("docs/results/*.csv")]
    assert len(files) > 10
    assert [file.name for file in files if file.name not in page] == []
    at = json.loads((ROOT / "benchmarks/results/moon_overhead.json").read_text())["at"]
    assert f"| at | {at['median']:.2f} ({at['low']:.2f} to {at['high']:.2f}), {at['pairs']} pairs |" in page


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_figures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/figures").iterdir()}
    assert "product.png" in sizes
    assert max(sizes.values()) < 200_000
