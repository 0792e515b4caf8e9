"""The fuzzer runs, finds nothing, and would find what it is for."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("lightning.pytorch", "lightning.fabric"):  # which it silences
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    return importlib.import_module("fuzz")


def test_a_small_run_finds_nothing(fuzz: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    status = fuzz.main(["--cases", "200", "--seed", "0"])
    assert status == 0, capsys.readouterr().out


def test_each_outcome_is_told_apart(fuzz: ModuleType) -> None:
    model, x = nn.Linear(2, 1), torch.zeros(2)

    def refuse() -> None:
        msg = "expected something else"
        raise ValueError(msg)

    def wrong() -> None:
        raise TypeError

    outcomes = {
        "ok": fuzz.Case("", lambda: None, allowed=True),
        "silent": fuzz.Case("", lambda: None, allowed=False),
        "refused": fuzz.Case("", refuse, allowed=False),
        "foreign": fuzz.Case("", wrong, allowed=False),
    }
    for expected, case in outcomes.items():
        assert fuzz.outcome_of(case)[0] == expected
    for change in (model.eval, lambda: x.add_(1), lambda: torch.rand(1), lambda: model.weight.data.add_(1)):
        assert fuzz.outcome_of(fuzz.Case("", change, allowed=True, watched=[model, x]))[0] == "state"
