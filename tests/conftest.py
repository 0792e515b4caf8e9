"""One thread, here and in the processes that tests start: their tensors are small, and threads would only wait."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from unittest.mock import patch

import pytest
import torch
from omegaconf import grammar_parser

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

WHOLE_RUNS = (
    "tests/cli/",
    "tests/jobs/test_optimized_metric.py",
    "tests/test_conf.py",
    "tests/runs/test_dashboards.py",
    "tests/callbacks/test_module_patterns.py",
)

COVERED = (
    "tests/cli/test_analyze.py",
    "tests/cli/test_command.py",
    "tests/cli/test_demo.py",
    "tests/cli/test_evaluate.py",
    "tests/cli/test_report.py",
    "tests/cli/test_train.py",
    "tests/stacked/",
)
"""The slow tests that reach code which no quick one does: coverage, which doubles their time, leaves out the others."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not hang on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def unflushed() -> Iterator[None]:
    """Nothing waits for the disk, which takes a tenth of a whole run."""
    with patch("os.fsync"):
        yield


@pytest.fixture(autouse=True, scope="session")
def parsed_once() -> Iterator[None]:
    """The interpolations that all configurations hold are parsed once, which takes a tenth of a small run otherwise."""
    parse = cache(grammar_parser.parse)
    with ExitStack() as stack:
        for module in ("omegaconf.base", "omegaconf._utils"):
            stack.enter_context(patch(f"{module}.parse", parse))
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision: two ways of adding up the same gradient agree on its signs there, which an attack follows."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Figures are not drawn."""
    from tests.helpers.hydra_run import undrawn

    with undrawn():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start whole runs are slow together, though each of them is quick.

    Those of two processes come first and those of compiled passes last: compiled backward passes start threads of
    autograd, behind which a process cannot be forked.
    """
    items.sort(key=lambda item: (_is_compiled(item), not _forks(item)))
    for item in items:
        if item.nodeid.startswith(WHOLE_RUNS):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.nodeid.startswith(COVERED):
            item.add_marker(pytest.mark.no_cover)


def _forks(item: pytest.Item) -> bool:
    return item.path.name == "test_ddp.py" or "processes" in item.name


def _is_compiled(item: pytest.Item) -> bool:
    return item.path.name.startswith("test_compiled")
