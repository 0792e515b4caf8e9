"""The history of the analyses in a checkpoint: what repeats is kept once, and figures as stacked float32 tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from lsa_lightning.layers.report import AnalysedEpoch, SustainabilityReport

_SAME = ("layers", "learnable", "samples", "attack", "measure")
_FIGURES = ("mean", "std", "mu", "sigma")


def rounded(report: SustainabilityReport) -> SustainabilityReport:
    """``report`` with figures that float32 holds exactly, so that a checkpoint keeps them as they are."""
    return replace(report, **{name: getattr(report, name).float().double() for name in _FIGURES})


def stacked(history: Sequence[AnalysedEpoch]) -> list[dict[str, Any]]:
    """Blocks of epochs whose reports are of the same layers, data, attack and measure.

    Returns:
        For each block what its reports have in common; ``epoch``, ``[E]``; ``mean`` and ``std``, ``[E, L]``, ``mu`` and
        ``sigma``, ``[E]``, all float32; the ``names`` in any MVL, the numbers in it of all lists, one after another, as
        ``mvl``, and how many belong to each epoch as ``mvl_size``, ``[E]``.
    """
    blocks = groupby(history, key=lambda entry: [getattr(entry.report, name) for name in _SAME])
    return [{**dict(zip(_SAME, common, strict=True)), **_block(list(entries))} for common, entries in blocks]


def unstacked(blocks: Sequence[Mapping[str, Any]]) -> list[AnalysedEpoch]:
    """The inverse of :func:`stacked`; also reads checkpoints of before 0.2, which hold a mapping per epoch."""
    return [entry for block in blocks for entry in _entries(block)]


def _block(entries: Sequence[AnalysedEpoch]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for entry in entries for name in entry.mvl))
    number = {name: index for index, name in enumerate(names)}
    figures = {name: torch.stack([getattr(entry.report, name) for entry in entries]).float() for name in _FIGURES}
    return {
        **figures,
        "epoch": torch.tensor([entry.epoch for entry in entries], dtype=torch.int32),
        "names": names,
        "mvl": torch.tensor([number[name] for entry in entries for name in entry.mvl], dtype=torch.int16),
        "mvl_size": torch.tensor([len(entry.mvl) for entry in entries], dtype=torch.int16),
    }


def _entries(block: Mapping[str, Any]) -> list[AnalysedEpoch]:
    if "names" not in block:
        return [AnalysedEpoch.from_dict(block)]
    common = {name: block[name] for name in _SAME}
    lists = block["mvl"].split(block["mvl_size"].tolist())
    return [
        AnalysedEpoch(
            int(epoch),
            SustainabilityReport(**common, **{name: block[name][index].double() for name in _FIGURES}),
            [block["names"][number] for number in lists[index].tolist()],
        )
        for index, epoch in enumerate(block["epoch"])
    ]
