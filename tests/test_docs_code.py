"""Every block of code in README.md and docs/ runs, or is listed here with the reason why it does not.

CONTRIBUTING.md: ``test_contributing.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from tests.helpers.doc_blocks import ELSEWHERE, ROOT, blocks, commands, pages
from tests.helpers.hydra_run import FEW_CHECKS, composed_job, main_in_process, train_tiny
from tests.helpers.run_copies import copy_run

from lsa_lightning.cli import analyze, evaluate, report, train

LANGUAGES = {"bash", "python", "yaml", "", "{toctree}", "{include}", "{glossary}"}
"""Blocks of no language show what is printed, or a folder."""

NOT_RUN = {
    r"pip install .*|apt-get install .*": "changes the environment; .ci/run installs what it needs",
    r"pytest": "these tests",
    r"lsa-train (experiment|attack|logger|measure)=\w+": "tests/test_conf.py runs each file of these groups",
    r"lsa-train .+ logger=wandb .*": "tests/runs/test_loggers.py and test_dashboards.py run it offline",
    r"lsa-train .*logger=wandb": "needs an account; the same tests",
    r"lsa-train logger=wandb logger.wandb.offline=true": "the same tests",
    r"lsa-train .*\bcluster=.*": "tests/test_cluster_slurm.py and tests/cli/test_sweeps.py launch jobs",
    r"lsa-train -m experiment=moon_at,moon_at_lr seed=[^ ]*( hydra.sweep.dir=.*)?": "tests/cli/test_sweeps.py sweeps",
    r"lsa-train hparams_search=optuna.*": "tests/cli/test_search.py searches",
    r"lsa-train experiment=(mnist|cifar10)_\w+ .*": "needs a data set; tests/test_conf.py runs them on a small fake",
    r"lsa-train data=mnist.*": "needs a data set; tests/test_conf.py runs it on a small fake",
    r"lsa-demo .*": "serves until it is stopped; tests/demo opens it in a browser",
    r"lsa-report examples/moon": "tests/test_examples.py",
    r"lsa-train trainer=(ddp|gpu).*": "needs devices; tests/callbacks/test_ddp.py",
    r"lsa-train seeds=range.*|lsa-train 'seeds=range.*": "trains twenty networks; tests/stacked train fewer",
    r"lsa-train attack=foolbox .*": "tests/test_conf.py runs an attack of foolbox",
    r"python -m scripts.kill_and_resume .*": "takes minutes",
    r"python scripts/\S+\.py.*|eval .*|squeue|sinfo": "starts a SLURM; tests/test_cluster_slurm.py does",
}
"""Patterns of whole commands, with the reason."""

NEEDS = {"docs/howto/lightning_cli.md": "jsonargparse"}
"""Packages that a page installs and dev does not."""

COMMANDS = commands()
LISTED = [line for line in COMMANDS if any(re.fullmatch(pattern, line) for pattern in NOT_RUN)]
PYTHON_PAGES = [page for page in pages() if any(block.language == "python" for block in blocks(page))]
RUN = [line for line in COMMANDS if line not in LISTED and not line.startswith("python main.py")]


def first_job(arguments: list[str]) -> list[str]:
    """The overrides of the first job of a sweep, or of the only one."""
    overrides = [argument for argument in arguments if argument != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{each.get_key_element()}={next(iter(each.sweep_string_iterator()))}" if each.is_sweep_override() else typed
        for typed, each in zip(overrides, parsed, strict=True)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the pages speak of."""
    place = tmp_path_factory.mktemp("docs")
    train_tiny(place / "RUN")
    for name in ("RUN_A", "SWEEP/0", "runs/sweeps/moon/0"):
        copy_run(place / "RUN", place / name)
    for name in ("RUN_B", "SWEEP/1", "runs/sweeps/moon/1"):
        copy_run(place / "RUN", place / name, seed=1)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if NEEDS.get(page) and find_spec(NEEDS[page]) is None:
        pytest.skip(f"needs {NEEDS[page]}")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, page, "exec"), namespace)
        elif block.language == "bash" and block.code.startswith("python main.py"):
            subprocess.run([sys.executable, *shlex.split(block.code)[1:]], check=True, env=os.environ)


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_a_command_runs(line: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    program, *arguments = shlex.split(line)
    folder = f"hydra.run.dir={tmp_path}"  # what starts in the same second would share one
    if program == "lsa-report":
        report.main(arguments)
    elif program == "lsa-evaluate":
        main_in_process(evaluate.main, folder, "evaluation.attacks.pgd.steps=2", *FEW_CHECKS, *arguments)
    elif program == "lsa-analyze":
        main_in_process(analyze.main, folder, *arguments)
    elif program == "lsa-train" and arguments[0].startswith("resume="):
        arguments = ["trainer.max_epochs=2" if each.startswith("trainer.max_epochs=") else each for each in arguments]
        main_in_process(train.main, *arguments)
    elif program == "lsa-train":
        train_tiny(tmp_path / "run", *first_job(arguments))
    else:
        pytest.fail(f"expected a way to run it, or a reason in NOT_RUN why it cannot be run: {line}")


@pytest.mark.parametrize(
    "line", [line for line in LISTED if line.startswith("lsa-train") and "cluster=lab" not in line]
)
def test_a_command_that_is_not_run_composes(line: str, tmp_path: Path) -> None:
    _, *arguments = shlex.split(line)
    with composed_job("train", first_job(arguments), tmp_path):
        sweeps_by_itself = HydraConfig.get().mode == RunMode.MULTIRUN
    assert ("-m" in arguments) + sweeps_by_itself <= 1


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_a_reason_is_needed(pattern: str) -> None:
    assert any(re.fullmatch(pattern, line) for line in COMMANDS)


def test_scripts_are_there() -> None:
    words = [word for line in COMMANDS for word in re.findall(r"python (?:-m )?((?:scripts|benchmarks)\S+)", line)]
    files = [ROOT / (word if word.endswith(".py") else f"{word.replace('.', '/')}.py") for word in words]
    assert len(files) >= 3
    assert [file for file in files if not file.is_file()] == []


def test_every_language_is_known() -> None:
    unknown = [block for page in pages() for block in blocks(page) if block.language not in LANGUAGES]
    assert unknown == []


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_a_page_that_is_tested_elsewhere_is_named_there(page: str, test: str) -> None:
    if (ROOT / page).exists():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")
