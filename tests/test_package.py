"""The package as a whole."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from importlib import import_module
from importlib.metadata import distribution, entry_points, version
from pathlib import Path
from typing import get_origin

import pytest

import lsa_lightning

PUBLIC = (
    "lsa_lightning",
    "lsa_lightning.attacks",
    "lsa_lightning.callbacks",
    "lsa_lightning.data",
    "lsa_lightning.demo",
    "lsa_lightning.evaluation",
    "lsa_lightning.functional",
    "lsa_lightning.layers",
    "lsa_lightning.masking",
    "lsa_lightning.models",
)
TESTS = Path(__file__).parent
MODULES = [info.name for info in pkgutil.walk_packages(lsa_lightning.__path__, "lsa_lightning.")]


def test_public_names_are_sorted() -> None:
    assert lsa_lightning.__all__ == sorted(lsa_lightning.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_once(name: str) -> None:
    module = import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name: str) -> None:
    module = import_module(name)
    public = {name: getattr(module, name) for name in module.__all__ if name != "__version__"}
    assert [name for name, value in public.items() if not value.__doc__ and get_origin(value) is None] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_defines_has_docstrings(name: str) -> None:
    module = import_module(name)
    assert module.__doc__
    own = [
        (public, value)
        for public, value in vars(module).items()
        if not public.startswith("_") and getattr(value, "__module__", None) == name
    ]
    described = [public for public, value in own if inspect.isclass(value) or inspect.isfunction(value)]
    assert [public for public in described if not inspect.getdoc(getattr(module, public))] == []


def test_the_version_is_that_of_the_distribution() -> None:
    assert lsa_lightning.__version__ == version("lsa-lightning")


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(lsa_lightning.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", ["train", "analyze", "evaluate", "report", "demo"])
def test_the_commands_point_to_the_entry_points(name: str) -> None:
    (command,) = entry_points(group="console_scripts", name=f"lsa-{name}")
    assert command.load() is import_module(f"lsa_lightning.cli.{name}").main


def test_the_malicious_uploads_of_lightning_are_excluded() -> None:
    required = [line for line in distribution("lsa-lightning").requires or [] if line.startswith("lightning")]
    (requirement,) = [line for line in required if not line.startswith("lightning-utilities")]
    assert "!=2.6.2" in requirement
    assert "!=2.6.3" in requirement


def imported(file: Path) -> set[str]:
    """The modules that a file names in its import statements."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_no_test_imports_from_another_test() -> None:
    found = {file.name: name for file in TESTS.rglob("*.py") for name in imported(file) if "test_" in name}
    assert found == {}


def test_tests_mirror_the_package() -> None:
    rooms = {file.relative_to(TESTS).parent for file in TESTS.rglob("test_*.py")}
    assert all((Path(lsa_lightning.__file__).parent / room).is_dir() for room in rooms)
