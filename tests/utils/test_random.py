"""No two seeds, purposes, epochs, ranks or batches draw the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from lsa_lightning.attacks import PGD, Attack
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.attacks.base import Model
from lsa_lightning.data.loader import EpochShuffle
from lsa_lightning.data.sampling import EpochIndices
from lsa_lightning.evaluation import RobustnessEvaluation
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.utils.random import Purpose, generator_of, seed_of

SEEDS = [0, 1, 2, 3, 42, 1234, 2**31, 2**32, 2**32 + 1, 2**63]
KEYS = [(), *((i,) for i in range(100)), *((i, j) for i in range(10) for j in range(10))]


def test_a_large_grid_has_no_two_seeds_alike_even_in_the_bits_that_a_cpu_looks_at() -> None:
    seeds = [seed_of(seed, purpose, *key) for seed, purpose, key in product(SEEDS, Purpose, KEYS)]
    assert len(seeds) == len(SEEDS) * len(Purpose) * len(KEYS) > 10_000
    assert len(set(seeds)) == len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


def test_the_seeds_of_this_version_stay() -> None:
    assert seed_of(0, Purpose.ORDER, 1) == seed_of(0, Purpose.ORDER, np.int64(1))
    assert seed_of(0, Purpose.ORDER, 1) == 6707330376740671595


def test_generators_draw_what_their_seed_says() -> None:
    first, again = (torch.rand(5, generator=generator_of(3, Purpose.ATTACK, 1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(5, generator=generator_of(3, Purpose.ATTACK, 2)))
    assert generator_of(3, Purpose.ATTACK, device="cpu").initial_seed() == seed_of(3, Purpose.ATTACK)


def shuffled(seed: int, epoch: int) -> list[int]:
    sampler = EpochShuffle(1000, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def dealt(seed: int, epoch: int) -> list[int]:
    return [index % 1000 for index in EpochIndices(1000, seed, current_epoch=lambda: epoch)]


@pytest.mark.parametrize("order", [shuffled, dealt])
def test_orders_of_seeds_and_epochs_differ(order: Callable[[int, int], list[int]]) -> None:
    grid = [tuple(order(seed, epoch)) for seed, epoch in product(range(8), range(8))]
    assert len(set(grid)) == len(grid)
    # What seed * 0x9E3779B9 + epoch did in the 32 bits that a CPU looks at.
    assert order(0, 0x9E3779B9) != order(1, 0)


class Drawing(Attack):
    """Notes the first number of its generator at each call."""

    drawn: list[float]

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        self.drawn.append(float(torch.rand((), generator=self.generator(x.device), dtype=torch.float64)))
        return x


def model(drawn: list[float]) -> torch.nn.Module:
    class Noisy(torch.nn.Module):
        """Notes the first of the numbers that it draws itself in each pass."""

        def forward(self, x: Tensor) -> Tensor:
            drawn.append(float(torch.rand((), dtype=torch.float64)))
            return x[:, :1] - 1.5  # never all in [0, 1], where outputs are looked at again

    return Noisy()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    return [(x, torch.tensor([0, 1, 0, 1]))] * count


def test_evaluations_of_different_seeds_have_no_batch_in_common() -> None:
    attacks: list[float] = []
    models: list[float] = []
    for seed in range(5):
        attack = Drawing(0.1)
        attack.drawn = attacks
        RobustnessEvaluation({"drawing": attack}, [0.1], seed=seed).run(model(models), batches(5))
    assert len(set(attacks)) == len(attacks) == 25
    assert len(set(models)) == len(models) == 2 * 25  # clean, and under attack


def test_masking_checks_of_different_seeds_have_no_batch_in_common() -> None:
    drawn: list[list[float]] = [[], [], []]  # attacks on one batch may meet a model that draws the same
    for seed, numbers in enumerate(drawn):
        MaskingChecks(0.1, steps=1, n_queries=1, n_samples=12, seed=seed).run(model(numbers), batches(3))
    assert all(drawn)
    assert len(set().union(*drawn)) == sum(len(set(numbers)) for numbers in drawn)


def test_an_attack_in_training_and_in_an_evaluation_draw_different_numbers() -> None:
    x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])

    def linear(x: Tensor) -> Tensor:
        return x[:, :1]

    attack = PGD(0.1, 0.001, steps=1, seed=0)
    starts = [attack(linear, x, y), *(attack.with_stream(i)(linear, x, y) for i in range(5))]
    starts += [PGD(0.1, 0.001, steps=1, seed=seed).with_stream(0)(linear, x, y) for seed in range(1, 5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])


def test_an_attack_does_not_draw_what_the_global_generator_draws_from_the_same_seed() -> None:
    own, same_seed = PGD(seed=7).generator(torch.device("cpu")), torch.Generator().manual_seed(7)
    assert not torch.equal(torch.rand(5, generator=own), torch.rand(5, generator=same_seed))
