"""The example of CONTRIBUTING.md, run as it is printed there."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from tests.helpers.hydra_run import composed_job, read_json, train_tiny

import lsa_lightning.attacks

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^`(\S+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE: dict[str, str] = dict(CODE.findall((ROOT / "CONTRIBUTING.md").read_text()))
"""The code by the path that stands above it."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the files of the example, where Python finds them."""
    for name, code in EXAMPLE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    attacks = lsa_lightning.attacks
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "src/lsa_lightning/attacks")])
    monkeypatch.delitem(sys.modules, "lsa_lightning.attacks.mifgsm", raising=False)
    return tmp_path


def searched(tree: Path) -> str:
    """The override that lets Hydra find the YAML file."""
    return f"hydra.searchpath=[file://{tree / 'conf'}]"


def test_it_is_three_files_that_do_not_exist_yet() -> None:
    assert list(EXAMPLE) == [
        "src/lsa_lightning/attacks/mifgsm.py",
        "conf/attack/mifgsm.yaml",
        "tests/attacks/test_mifgsm.py",
    ]
    assert not any((ROOT / name).exists() for name in EXAMPLE)


def test_its_tests_pass(tree: Path) -> None:
    found = runpy.run_path(str(tree / "tests/attacks/test_mifgsm.py"))
    tests = [value for name, value in found.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_its_yaml_follows_the_threat_model(tree: Path) -> None:
    with composed_job("train", ["attack=mifgsm", searched(tree), "threat.eps=0.2"], tree / "run") as cfg:
        attack = instantiate(cfg.attack, _convert_="all")
    assert (type(attack).__name__, attack.eps, attack.bounds) == ("MIFGSM", 0.2, None)


def test_it_trains(tree: Path) -> None:
    train_tiny(tree / "run", "attack=mifgsm", searched(tree))
    assert read_json(tree / "run/summary.json")["trained"]["attack"].startswith("MIFGSM(")


@pytest.mark.parametrize("command", [["check"], ["format", "--diff"]], ids=" ".join)
@pytest.mark.parametrize("name", [name for name in EXAMPLE if name.endswith(".py")])
def test_it_is_written_as_the_rest_is(name: str, command: list[str]) -> None:
    ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={ROOT / name}", "-"]
    done = subprocess.run(ruff, check=False, capture_output=True, text=True, input=EXAMPLE[name], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
