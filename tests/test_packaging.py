"""What installers, forges and readers are told about the package says the same everywhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lsa_lightning
from lsa_lightning.runs import installed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "typing-extensions": "typing_extensions"}


def in_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def pythons(text: str) -> list[str]:
    return re.findall(r"3\.\d+", text)


def test_every_python_of_the_classifiers_is_run() -> None:
    supported = [version for each in PROJECT["classifiers"] for version in pythons(each)]
    assert supported[0] == PROJECT["requires-python"].removeprefix(">=")
    (line,) = re.findall(r"^PYTHONS = .*$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert pythons(line) == supported
    jobs = in_yaml(".github/workflows/ci.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported


def test_authors_are_those_of_the_citation() -> None:
    assert PROJECT["authors"] == in_yaml("CITATION.cff")["authors"]


def test_the_recipe_asks_for_what_the_wheel_asks_for() -> None:
    recipe = in_yaml("conda/recipe.yaml")
    ours = {IN_CONDA.get(each.name, each.name): each.specifier for each in map(Requirement, PROJECT["dependencies"])}
    lines = [line.split() for line in recipe["requirements"]["run"] if not line.startswith("python ")]
    assert {name: SpecifierSet(specifier) for name, specifier in lines} == ours
    assert recipe["context"]["version"] == lsa_lightning.__version__
    commands = [f"{name} = {where}" for name, where in PROJECT["scripts"].items()]
    assert sorted(recipe["build"]["python"]["entry_points"]) == sorted(commands)


def test_the_extras_that_messages_name_exist() -> None:
    assert set(installed._EXTRAS.values()) <= PROJECT["optional-dependencies"].keys()
