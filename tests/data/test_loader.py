from __future__ import annotations

import signal
import subprocess
from multiprocessing import active_children

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning.data.loader import EpochShuffle, ResumableDataLoader, start_worker


def numbers() -> ResumableDataLoader:
    return ResumableDataLoader(TensorDataset(torch.arange(10)), batch_size=2, sampler=EpochShuffle(10, seed=3))


def given(loader: ResumableDataLoader, limit: int = 99) -> list[list[int]]:
    return [batch[0].tolist() for batch, _ in zip(loader, range(limit), strict=False)]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sampler, other = EpochShuffle(100, seed=0), EpochShuffle(100, seed=1)
    first = list(sampler)
    torch.rand(7)
    assert list(sampler) == first != sorted(first)
    assert list(other) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sorted(sampler) == list(range(len(sampler)))


def test_the_ranks_together_have_the_batches_of_one() -> None:
    whole = list(EpochShuffle(12, seed=3))
    first, second = (list(EpochShuffle(12, seed=3, ranks=2, rank=rank)) for rank in (0, 1))
    assert [sorted(first[i : i + 2] + second[i : i + 2]) for i in (0, 2, 4)] == [
        sorted(whole[i : i + 4]) for i in (0, 4, 8)
    ]


def test_goes_on_in_the_middle_of_an_epoch_and_then_from_the_start() -> None:
    loader = numbers()
    whole = given(loader)
    iterator = iter(loader)
    next(iterator), next(iterator)
    resumed = numbers()
    resumed.load_state_dict(loader.state_dict())
    assert given(resumed) == whole[2:]
    assert given(resumed) == whole


def test_a_second_interruption_counts_from_the_start_of_the_epoch() -> None:
    resumed = numbers()
    resumed.load_state_dict({"given": 2})
    next(iter(resumed))
    assert resumed.state_dict() == {"given": 3}


def test_after_a_complete_epoch_nothing_is_left_out() -> None:
    loader = numbers()
    whole = given(loader)
    resumed = numbers()
    resumed.load_state_dict(loader.state_dict())
    assert given(resumed) == whole


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not tell who sent a signal")
def test_sigterm_ends_a_worker_if_its_parent_sends_it_and_only_then() -> None:
    others = active_children()
    batches = iter(DataLoader(TensorDataset(torch.arange(9)), num_workers=1, worker_init_fn=start_worker))
    next(batches)
    (worker,) = (child for child in active_children() if child not in others)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(batches)) == 8
    batches = iter(DataLoader(TensorDataset(torch.arange(9)), num_workers=1, worker_init_fn=start_worker))
    next(batches)
    (worker,) = (child for child in active_children() if child not in others)
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0
