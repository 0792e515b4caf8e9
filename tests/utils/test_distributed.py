from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.helpers.modules import ModularConvNet, loader
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lsa_lightning import LayerSustainabilityAnalysis, RobustnessEvaluation
from lsa_lightning.attacks import FGSM, PGD, GaussianNoise
from lsa_lightning.runs.stages import AnalysisStage
from lsa_lightning.utils.distributed import (
    by_first,
    gathered,
    own_samples,
    own_share,
    place,
    size_of_own_share,
    take_weights_of_first,
    together,
)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("samples", [4, 7, 12, 13])
def test_every_sample_is_counted_once_over_the_processes(samples: int, batch_size: int, processes: int) -> None:
    counted: list[int] = []
    for rank in range(processes):
        sampler: DistributedSampler[int] = DistributedSampler(range(samples), processes, rank, shuffle=False)  # type: ignore[arg-type]
        loader = DataLoader(range(samples), batch_size, sampler=sampler)  # type: ignore[arg-type, var-annotated]
        for index, batch in enumerate(loader):
            counted += batch[: own_samples(loader, index, len(batch))].tolist()
    assert sorted(counted) == list(range(samples))


def test_other_samplers_repeat_nothing_that_could_be_known() -> None:
    assert own_samples(DataLoader(range(5), batch_size=2), 2, 1) == 1  # type: ignore[arg-type]
    assert own_samples([1, 2], 0, 7) == 7


def _in_process(rank: int, folder: str, work: Callable[[], Any]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def in_two_processes(folder: Path, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns in each."""
    mp.start_processes(_in_process, (str(folder), work), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def _shares() -> Any:
    return [list(own_share("abc")), size_of_own_share(3), gathered(place()), by_first(place)]


def test_items_are_dealt_out_and_the_first_process_decides(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, _shares) == [
        [[(0, "a"), (2, "c")], 2, [(0, 2), (1, 2)], (0, 2)],
        [[(1, "b")], 1, [(0, 2), (1, 2)], (0, 2)],
    ]
    assert _shares() == [[(0, "a"), (1, "b"), (2, "c")], 3, [(0, 1)], (0, 1)]


def _fails_in(rank: int) -> None:
    if place()[0] == rank:
        msg = "planted"
        raise ValueError(msg)


def _errors() -> list[str]:
    seen = []
    for work in (partial(_fails_in, 1), partial(by_first, partial(_fails_in, 0))):
        try:
            with together():
                work()
        except (ValueError, RuntimeError) as error:
            seen.append(f"{type(error).__name__}: {error}")
    return seen


def test_an_error_in_one_process_is_an_error_in_all(tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, _errors)
    assert first == ["RuntimeError: process 1 failed: ValueError: planted", "ValueError: planted"]
    assert second == ["ValueError: planted", "RuntimeError: process 0 failed: ValueError: planted"]


def _weights() -> list[torch.Tensor]:
    torch.manual_seed(place()[0])
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model(torch.randn(8, 2))
    take_weights_of_first(model)
    return list(model.state_dict().values())


def test_weights_and_buffers_of_the_first_process_reach_all(tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, _weights)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


class Noisy(ModularConvNet):
    """Draws random numbers, in eval mode too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.05 * torch.randn_like(x))


ATTACKS = {"noise": GaussianNoise(0.1), "pgd": PGD(0.1, steps=2), "fgsm": FGSM(0.1)}


def _measured(limit: int | None) -> Any:
    torch.manual_seed(0)
    model = Noisy(0.0)
    torch.manual_seed(3)
    batches = loader(batch_size=16)
    reports = AnalysisStage(ATTACKS, mvl_from="pgd", limit_batches=limit).run(model, batches).reports
    table = RobustnessEvaluation(ATTACKS, [0.05, 0.1], limit_batches=limit).run(model, batches)
    return {name: report.to_dict() for name, report in reports.items()}, table.to_dict()


@pytest.mark.parametrize("limit", [None, 1])
def test_analysis_and_evaluation_of_two_processes_are_those_of_one(tmp_path: Path, limit: int | None) -> None:
    """With a single batch, the second process has none."""
    expected, expected_table = _measured(limit)
    for reports, table in in_two_processes(tmp_path, partial(_measured, limit)):
        assert table == expected_table
        for name, report in reports.items():
            assert report["layers"] == expected[name]["layers"]
            for key in ("mean", "std", "mu", "sigma"):
                assert report[key] == pytest.approx(expected[name][key], abs=1e-12)


def test_each_batch_of_a_spread_analysis_has_its_own_random_numbers() -> None:
    model = ModularConvNet(0.0)
    batch = next(iter(loader(batch_size=16)))
    analysis = LayerSustainabilityAnalysis(model)
    one, two = (analysis.run([batch] * n, GaussianNoise(0.1), spread=True) for n in (1, 2))
    again = analysis.run([batch] * 2, GaussianNoise(0.1), spread=True)
    assert not torch.equal(one.mean, two.mean)
    assert torch.equal(again.mean, two.mean)
