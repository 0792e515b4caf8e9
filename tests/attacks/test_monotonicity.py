"""A stronger attack never looks weaker: five networks trained on real 8 x 8 digits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.digits import EPS, TRAINED, held_out, trained

from lsa_lightning.attacks import APGD, FGSM, PGD, Attack, Ensemble
from lsa_lightning.evaluation import correct

pytestmark = pytest.mark.slow

ROWS: dict[str, list[Attack | None]] = {
    "FGSM, eps": [None, *(FGSM(eps) for eps in (0.05, 0.1, 0.2, 0.3))],
    "PGD, eps": [None, *(PGD(eps, best="success", seed=0) for eps in (0.05, 0.1, 0.2, 0.3))],
    "APGD, eps": [None, *(APGD(eps, 10, best="success", seed=0) for eps in (0.05, 0.1, 0.2, 0.3))],
    "PGD, steps": [PGD(EPS, EPS / 4, steps=steps, best="success", seed=0) for steps in (10, 20, 50)],
    "APGD, steps": [APGD(EPS, steps, best="success", seed=0) for steps in (10, 20, 50)],
    "attacks": [
        FGSM(EPS),
        PGD(EPS, EPS / 4, best="success", seed=0),
        APGD(EPS, 50, best="success", seed=0),
        Ensemble(EPS, seed=0, steps=50, n_queries=100),
    ],
}


def accuracies(name: str, attacks: list[Attack | None]) -> list[float]:
    """In percent, on the digits that the network was not trained on."""
    model, (x, y) = trained(name), held_out()
    shots = [x if attack is None else attack(model, x, y) for attack in attacks]
    return [100 * float(correct(model, shot, y).float().mean()) for shot in shots]


@pytest.mark.parametrize("name", TRAINED)
def test_the_networks_have_learned(name: str) -> None:
    assert accuracies(name, [None])[0] > 80


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", TRAINED)
def test_accuracy_falls_or_stays(name: str, row: str) -> None:
    found = accuracies(name, ROWS[row])
    assert all(after <= before for before, after in pairwise(found)), found


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(TRAINED)), st.floats(0.02, 0.5), st.floats(0.1, 1.0), st.integers(0, 2**31))
def test_with_a_fixed_step_size_more_steps_fool_all_that_fewer_do(
    name: str, eps: float, alpha: float, seed: int
) -> None:
    model, (x, y) = trained(name), held_out(60)
    few, more = (
        correct(model, PGD(eps, alpha * eps, steps=steps, best="success", seed=seed)(model, x, y), y)
        for steps in (3, 6)
    )
    assert not (more & ~few).any()
