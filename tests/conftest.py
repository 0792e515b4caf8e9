"""One thread, here and in the processes that tests start: their tensors are small, and threads would only wait."""

import os

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

WHOLE_RUNS = (
    "tests/cli/",
    "tests/test_conf.py",
    "tests/runs/test_dashboards.py",
    "tests/callbacks/test_module_patterns.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start whole runs are slow together, though each of them is quick."""
    for item in items:
        if item.nodeid.startswith(WHOLE_RUNS):
            item.add_marker(pytest.mark.slow)
