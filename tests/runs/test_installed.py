"""Packages that are named and not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lsa_lightning.runs.installed import check_installed


def test_what_is_installed_passes() -> None:
    check_installed({"a": [{"_target_": "torch.nn.Linear"}], "b": None, "_target_": "lsa_lightning.attacks.PGD"}, "x")
    check_installed(None, "x")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "missing.Net"}, "model: expected missing to be installed, for missing.Net: pip install missing"),
        ({"a": [1, {"_target_": "missing.sub.Net"}]}, "model.a.1: expected missing to be installed"),
        ({"a": {"_target_": "torch.nn.Linear", "b": {"_target_": "missing.Net"}}}, "model.a.b: expected missing"),
    ],
)
def test_what_is_missing_is_named_with_its_place(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_installed(node, "model")


@pytest.mark.parametrize("package", ["torchattacks", "foolbox"])
def test_a_package_of_an_extra_leads_to_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("lsa_lightning.runs.installed.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "lsa-lightning\[attacks\]"'):
        check_installed({"_target_": f"{package}.Attack"}, "attack")


@pytest.mark.parametrize(
    ("logger", "extra"),
    [
        ("lightning.pytorch.loggers.TensorBoardLogger", "tensorboard"),
        ("lightning.pytorch.loggers.MLFlowLogger", "mlflow"),
        ("lsa_lightning.runs.loggers.JobMLFlowLogger", "mlflow"),
    ],
)
def test_a_logger_whose_package_is_missing_leads_to_the_extra(
    monkeypatch: pytest.MonkeyPatch, logger: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, extra, raising=False)
    monkeypatch.setattr("lsa_lightning.runs.installed.find_spec", lambda name: None if name == extra else name)
    with pytest.raises(ValueError, match=rf'{extra} to be installed, .* pip install "lsa-lightning\[{extra}\]"'):
        check_installed({"_target_": logger}, "logger")


def test_a_module_in_this_folder_is_found_with_the_python_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected my_nets to be found, .* it is in this folder, .* PYTHONPATH=\."):
        check_installed({"_target_": "my_nets.Net"}, "model")
