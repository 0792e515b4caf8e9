from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from lsa_lightning.utils.distributed import own_samples


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
