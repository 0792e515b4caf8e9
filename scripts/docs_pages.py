"""The pages of the documentation that are made from code and files, into docs/generated: docs/conf.py calls it.

python -m scripts.docs_pages [FOLDER]
"""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import isclass, isroutine
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import lsa_lightning

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs/generated"

TO_EXTEND = ("lsa_lightning.runs.loggers",)
"""Modules inside of packages without ``__all__`` that users subclass from."""

MOST_ROWS = 25
"""Files of results with more values than this are linked, not printed."""


class Public(NamedTuple):
    """A public name: the module that a user imports it from, and what it stands for."""

    module: str
    name: str
    value: Any

    @property
    def path(self) -> str:
        """As one would write it in code."""
        return f"{self.module}.{self.name}"

    @property
    def directive(self) -> str:
        """What makes its page."""
        if isclass(self.value):
            return "autoclass"
        return "autofunction" if isroutine(self.value) else "autodata"


def public_names() -> dict[str, list[Public]]:
    """The public names of each module: ``__all__``, or what a module at the top defines.

    A name that the package itself has from one of its rooms is listed with the room.
    """
    tops = [f"lsa_lightning.{found.name}" for found in pkgutil.iter_modules(lsa_lightning.__path__)]
    rooms = {name: _names(import_module(name)) for name in (*tops, *TO_EXTEND)}
    known = {id(each.value) for names in rooms.values() for each in names}
    own = [each for each in _names(lsa_lightning) if id(each.value) not in known]
    return {name: names for name, names in {"lsa_lightning": own, **rooms}.items() if names}


def _names(module: ModuleType) -> list[Public]:
    names = getattr(module, "__all__", None) or ([] if hasattr(module, "__path__") else _defined(module))
    return [Public(module.__name__, name, getattr(module, name)) for name in sorted(names)]


def _defined(module: ModuleType) -> list[str]:
    """Classes and functions without an underscore that the module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def write_api(folder: Path) -> None:
    """One page for each module with a table of its names, and one for each name."""
    folder.mkdir(parents=True)
    modules = public_names()
    index = [*_title("API"), "What users name and extend, by module.", "", ".. toctree::", "   :maxdepth: 1", ""]
    (folder / "index.rst").write_text("\n".join([*index, *(f"   {name}" for name in modules), ""]), encoding="utf-8")
    for module, names in modules.items():
        page = _module_page(module, names) + (_shortcuts(modules) if module == "lsa_lightning" else "")
        (folder / f"{module}.rst").write_text(page, encoding="utf-8")
        for each in names:
            (folder / f"{each.path}.rst").write_text(_name_page(each), encoding="utf-8")


def _module_page(module: str, names: list[Public]) -> str:
    lines = [*_title(module), f".. automodule:: {module}", "   :no-members:", "   :no-index:", ""]
    summarised = [each for each in names if each.directive != "autodata"]  # a type or a constant has no summary
    lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {each.name}" for each in summarised), ""]
    lines += [f"* :py:obj:`{each.path}`" for each in names if each not in summarised]
    lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {each.path}" for each in names), ""]
    return "\n".join(lines)


def _shortcuts(modules: Mapping[str, list[Public]]) -> str:
    """What the package itself has from its rooms, with links to the pages there."""
    homes = {id(each.value): each.path for names in modules.values() for each in names}
    links = [f"* :py:obj:`lsa_lightning.{each.name} <{homes[id(each.value)]}>`" for each in _names(lsa_lightning)]
    return "\n".join(["", "What one needs most can be imported from here:", "", *links, ""])


def _name_page(each: Public) -> str:
    lines = [*_title(each.name.replace("_", r"\_")), f".. {each.directive}:: {each.path}"]
    if each.directive == "autoclass":
        lines += ["   :members:", "   :show-inheritance:"]
    return "\n".join([*lines, ""])


def _title(text: str) -> list[str]:
    return [text, "=" * len(text), ""]


def write_results(file: Path) -> None:
    """One page of all result files that are stored in the repository."""
    lines = [
        "# Results",
        "",
        "All figures here are read from files of the repository when the page is built; each section names the command "
        "that writes its file. Ratios are medians of interleaved pairs, with their quartiles.",
        "",
    ]
    for results in sorted((ROOT / "benchmarks/results").glob("*.json")):
        lines += _section(results)
    for table in sorted((ROOT / "docs/results").glob("*.csv")):
        lines += [
            f"## {_heading(table)}",
            "",
            f"```{{csv-table}}\n:file: ../results/{table.name}\n:header-rows: 1\n```",
        ]
        lines += ["", f"{{download}}`{table.name} <../results/{table.name}>`", ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(results: Path) -> list[str]:
    """What a benchmark measures, on which machine, and its values."""
    values = json.loads(results.read_text(encoding="utf-8"))
    told, command = _origin(results.stem)
    machine = values.pop("machine", None) or values.pop("versions", None) or {}
    where = ", ".join(f"{key} {value}" for key, value in machine.items())
    rows = list(_rows(values))
    lines = [f"## {_heading(results)}", "", told, "", f"`{command}`", ""]
    lines += [where + ".", ""] if where else []
    if len(rows) <= MOST_ROWS:
        lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
    path = f"../../benchmarks/results/{results.name}"
    return [*lines, f"{{download}}`{results.name} <{path}>`, {len(rows)} entries", ""]


def _origin(name: str) -> tuple[str, str]:
    """The first paragraph of the script that writes the file, and how it is started: the line ``python ...`` there."""
    for folder in ("benchmarks", "scripts"):
        script = ROOT / folder / f"{name}.py"
        if script.exists():
            docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
            usage = re.search(r"^ *(python .*)$", docstring, re.MULTILINE)
            return " ".join(docstring.split("\n\n")[0].split()), usage[1] if usage else f"python -m {folder}.{name}"
    msg = f"expected a script benchmarks/{name}.py or scripts/{name}.py that writes {name}.json"
    raise ValueError(msg)


def _rows(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Each value with the keys that lead to it; a ratio is one value."""
    for key, value in values.items():
        path = f"{above}{key}".replace("|", "/")
        if isinstance(value, Mapping) and "median" in value:
            yield path, "{median:.3g} ({low:.3g} to {high:.3g}), {pairs} pairs".format(**value)
        elif isinstance(value, Mapping):
            yield from _rows(value, f"{path}, ")
        elif isinstance(value, list):
            yield path, ", ".join(map(_in_words, value))
        else:
            yield path, _in_words(value)


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_in_words(each)}" for key, each in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else str(value).replace("|", "/")


def _heading(file: Path) -> str:
    return file.stem.replace("_", " ").capitalize()


def write_all() -> None:
    """Everything anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    write_api(GENERATED / "api")
    write_results(GENERATED / "results.md")
    shutil.copytree(ROOT / "notebooks", GENERATED / "tutorials", ignore=shutil.ignore_patterns(".*"))


if __name__ == "__main__":
    write_all()
