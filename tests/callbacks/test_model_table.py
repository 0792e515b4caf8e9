"""What the model is made of, in a few lines."""

from __future__ import annotations

import pytest
from tests.helpers.modules import ForeignModule, loader, trainer

from lsa_lightning.callbacks import ModelTable


def test_parts_and_sums_are_printed_without_flops_and_modes(capsys: pytest.CaptureFixture[str]) -> None:
    module = ForeignModule()
    frozen = next(module.parameters()).requires_grad_(False)
    trainer(callbacks=[ModelTable()], enable_model_summary=True).fit(module, loader(n=8))
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    assert lines[0] == ["name", "type", "params"]
    total = sum(parameter.numel() for parameter in module.parameters())
    assert f"{total:,} parameters, {frozen.numel():,} of them frozen" in printed
    assert "FLOPs" not in printed
    assert "Mode" not in printed
    for name, _ in module.named_children():
        assert any(line[0] == name for line in lines)


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"expected max_depth.* >= 1, got 0"):
        ModelTable(0)
