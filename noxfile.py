"""The tests on every supported Python, and with the oldest release of everything that the package depends on.

    nox                               # all tests, on each of these Pythons that the machine has
    nox -s tests-3.12 -- tests/data   # a part of them, on one
    nox -s smoke floors               # some tests and a run, as .ci/run does beside all tests on its own Python

Pythons that are not there are skipped, and named. Under pyenv, all of them are found with
``PYENV_VERSION=$(pyenv versions --bare | paste -sd:)``. Environments are made by uv, whose cache they share.
"""

from __future__ import annotations

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")

SMOKE = ("tests/test_package.py", "tests/test_measures.py", "tests/functional", "tests/attacks/test_pgd.py")
"""Tests that need none of the extras: the maths, an attack, the package as a whole."""

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, with the newest releases."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def coverage(session: nox.Session) -> None:
    """The tests that are not marked no_cover, which must reach 95 % of the code."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-m", "not no_cover", "--cov", "--cov-report=term", "--cov-fail-under=95", *session.posargs)


@nox.session(python=PYTHONS)
def smoke(session: nox.Session) -> None:
    """Some tests and a run, with the newest releases and none of the extras."""
    session.install("-e", ".", "pytest", "pytest-xdist", "hypothesis")
    _smoke(session)


@nox.session(python=PYTHONS[0])
def floors(session: nox.Session) -> None:
    """The same with the oldest releases that pyproject.toml allows, on the oldest Python."""
    tools = ("pytest>=8.0", "pytest-xdist>=3.6", "hypothesis>=6.100")
    session.install("--resolution", "lowest-direct", "-e", ".", *tools)
    _smoke(session)


def _smoke(session: nox.Session) -> None:
    run = f"{session.create_tmp()}/run"
    limits = ("analysis.limit_batches=2", "evaluation.limit_batches=2", "evaluation.masking=null")
    session.run("pytest", "-q", *(session.posargs or SMOKE))
    session.run(
        "lsa-train", "experiment=moon_at_lr", "trainer.max_epochs=1", *limits, f"hydra.run.dir={run}", silent=True
    )
    session.run("lsa-report", run)
