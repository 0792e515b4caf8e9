"""Tables on the terminal."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from lsa_lightning import SustainabilityReport
from lsa_lightning.runs import console as console_module
from lsa_lightning.runs.console import print_profiles


def report(*means: float) -> SustainabilityReport:
    mean = torch.tensor(means, dtype=torch.float64)
    names = [f"backbone.act{i}" for i in range(1, len(means) + 1)]
    return SustainabilityReport(names, names, mean, mean / 2, mean.mean(), mean.std(correction=0), 40)


def printed(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """What goes to the terminal from here on."""
    text = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=text, width=width))
    return text


@pytest.mark.parametrize("width", [80, 120])
def test_the_profile_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = printed(monkeypatch, width)
    names = ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    print_profiles({name: report(0.1, 1.25, 0.5) for name in names}, ["backbone.act2"])
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    row = next(line for line in lines if "backbone.act2" in line)
    assert row.count("1.250") == len(names)
    assert "*" in row
    assert not any("*" in line for line in lines if "backbone.act1" in line or "backbone.act3" in line)
    assert next(line for line in lines if " mu " in line).count("0.617") == len(names)


def test_no_vulnerable_layer_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, 80)
    print_profiles({"fgsm": report(0.1, 0.1)}, [])
    assert "MVL under fgsm: none\n" in text.getvalue()
