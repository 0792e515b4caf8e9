from __future__ import annotations

import math

import pytest
import torch

from lsa_lightning.functional import amplification
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.selectors import Amplification, Level


def report(*means: float) -> SustainabilityReport:
    mean, names = torch.tensor(means, dtype=torch.float64), [f"act{i}" for i in range(len(means))]
    return SustainabilityReport(names, names, mean, mean, mean.mean(), mean.std(), 10)


def test_amplification_is_each_layers_mean_over_that_of_the_layer_before() -> None:
    assert amplification([0.5, 1.0, 0.25]) == [2.0, 0.25]
    assert amplification([0.0, 0.0, 1.0]) == [1.0, math.inf]
    assert amplification([0.5]) == []
    with pytest.raises(ValueError, match=r"amplification: expected mean\[1\] to be a finite number >= 0, got -1"):
        amplification([0.5, -1.0])


def test_amplification_chooses_others_than_the_level_does() -> None:
    found = report(0.1, 0.6, 0.9, 1.0)
    assert found.most_vulnerable(top_k=2) == ["act3", "act2"]
    assert Amplification(top_k=2)(found) == ["act1", "act2"]
    assert Amplification(above=1.2)(found) == ["act1", "act2"]
    assert Amplification(above=7.0)(found) == []


def test_level_chooses_all_or_none() -> None:
    assert Level(0.5)(report(0.9, 0.6, 0.8)) == ["act0", "act2", "act1"]
    assert Level(1.0)(report(0.9, 0.6, 0.8)) == []


def test_more_than_there_are_behind_the_first_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected top_k to be an integer <= 2 \(the number of layers"):
        Amplification(top_k=3)(report(0.9, 0.6, 0.8))


@pytest.mark.parametrize("options", [{}, {"top_k": 1, "above": 1.0}, {"top_k": 0}, {"above": -1.0}])
def test_amplification_takes_one_number(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Amplification: expected"):
        Amplification(**options)  # type: ignore[arg-type]


def test_level_is_not_negative() -> None:
    with pytest.raises(ValueError, match="Level: expected level to be a finite number >= 0, got -1"):
        Level(-1.0)


def test_repr_shows_what_is_chosen_by() -> None:
    assert (repr(Amplification(top_k=2)), repr(Level(0.5))) == ("Amplification(top_k=2)", "Level(level=0.5)")
