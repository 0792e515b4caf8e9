"""The history of the analyses, as checkpoints hold it."""

from __future__ import annotations

import io

import pytest
import torch

from lsa_lightning.layers.history import rounded, stacked, unstacked
from lsa_lightning.layers.report import AnalysedEpoch, SustainabilityReport


def _entry(epoch: int, layers: int = 3, samples: int = 10) -> AnalysedEpoch:
    mean, std = torch.rand(layers, dtype=torch.float64), torch.rand(layers, dtype=torch.float64)
    names = [f"backbone.block{index}.act" for index in range(layers)]
    report = SustainabilityReport(names, names, mean, std, mean.mean(), std.mean(), samples, "PGD(eps=0.3)")
    return AnalysedEpoch(epoch, rounded(report), names[epoch % layers :])


def _through_a_file(value: object) -> tuple[list[AnalysedEpoch], int]:
    file = io.BytesIO()
    torch.save(value, file)
    size = file.tell()
    file.seek(0)
    return unstacked(torch.load(file, weights_only=True)), size


def test_a_history_comes_back_as_it_was() -> None:
    history = [_entry(0), _entry(1), _entry(2, samples=20), _entry(5, layers=2), AnalysedEpoch(6, _entry(6).report, [])]
    back, _ = _through_a_file(stacked(history))
    assert [entry.to_dict() for entry in back] == [entry.to_dict() for entry in history]
    assert back[1]["mu"] == history[1]["mu"]


def test_no_history_is_none() -> None:
    assert unstacked(stacked([])) == []


def test_a_history_of_before_is_read() -> None:
    history = [_entry(0), _entry(1)]
    back, _ = _through_a_file([entry.to_dict() for entry in history])
    assert [entry.to_dict() for entry in back] == [entry.to_dict() for entry in history]


@pytest.mark.parametrize("layers", [3, 160])
def test_an_epoch_takes_a_few_bytes_per_layer(layers: int) -> None:
    few, many = (_through_a_file(stacked([_entry(e, layers) for e in range(n)]))[1] for n in (10, 110))
    assert (many - few) / 100 < 12 * layers + 20  # mean and std as float32, the list, and a few numbers
