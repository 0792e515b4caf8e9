"""What importing the library brings with it: no more than Lightning does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.helpers.without import run_without

import lsa_lightning

HEAVY = {"sklearn": "scikit-learn", "pandas": "pandas", "matplotlib": "matplotlib", "torchvision": "torchvision"}
"""Projects by module. Where they are installed, Lightning itself imports some of them."""

ROOMS = ("attacks", "callbacks", "evaluation", "functional", "layers", "masking", "measures", "objectives")


@pytest.mark.slow
def test_the_library_works_without_what_only_some_of_it_needs() -> None:
    names = ["lsa_lightning", *(f"lsa_lightning.{room}" for room in ROOMS)]
    imports = "".join(f"import {name}\n" for name in names)
    use = "from lsa_lightning.attacks import PGD\nlsa_lightning.ATLR(PGD(eps=0.1))\n"
    done = run_without(HEAVY, imports + use + f"print(sorted({set(HEAVY)} & set(sys.modules)))")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow
def test_the_packages_are_really_missing_there() -> None:
    done = run_without(HEAVY, "from lsa_lightning import MNISTDataModule")
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr


@pytest.mark.slow
def test_beside_lightning_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, lightning.pytorch\nbefore = set(sys.modules)\nimport lsa_lightning\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    new = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {*HEAVY, "scipy", "hydra", "omegaconf", "wandb", "rich", "jinja2"} & set(new)


@pytest.mark.parametrize("name", [name for name in lsa_lightning.__all__ if name.endswith("DataModule")])
def test_data_modules_are_there_when_asked_for(name: str) -> None:
    assert getattr(lsa_lightning, name) is getattr(lsa_lightning.data, name)
    assert name in dir(lsa_lightning)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'lsa_lightning' has no attribute 'NoDataModule'"):
        _ = lsa_lightning.NoDataModule
