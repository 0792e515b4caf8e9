from __future__ import annotations

import pytest
import torch
from tests.helpers import reference_attacks as reference
from tests.helpers.attack_cases import MODELS, make_batch, make_model
from torch import Tensor

from lsa_lightning.attacks import FFGSM, FGSM, PGD

CASES = [(name, eps) for name in MODELS for eps in (0.03, 0.3)]


@pytest.mark.parametrize(("name", "eps"), CASES)
def test_fgsm_equals_the_formula(name: str, eps: float) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = FGSM(eps)(model, x, y)
    expected = reference.fgsm(model.eval(), x, y, eps, 0.0, 1.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "eps"), CASES)
def test_ffgsm_equals_one_step_from_the_same_start(name: str, eps: float) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = FFGSM(eps, seed=7)(model, x, y)
    start = reference.uniform_start(x, eps, seed=7)
    expected = reference.pgd_linf(model.eval(), x, y, start, eps, 1.25 * eps, 1, 0.0, 1.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_fgsm_moves_every_coordinate_by_eps_where_the_bounds_allow() -> None:
    model, (x, y) = make_model("two classes"), make_batch("two classes")
    x = x * 0.5 + 0.25
    torch.testing.assert_close((FGSM(0.1)(model, x, y) - x).abs(), torch.full_like(x, 0.1))


def test_fgsm_of_a_linear_model_goes_against_the_label() -> None:
    def model(x: Tensor) -> Tensor:
        return x[:, :1] - x[:, 1:]

    x_adv = FGSM(0.2, bounds=None)(model, torch.zeros(2, 2), torch.tensor([1, 0]))
    torch.testing.assert_close(x_adv, torch.tensor([[-0.2, 0.2], [0.2, -0.2]]))


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("images")])
def test_fgsm_in_l2_goes_the_whole_length_along_the_gradient(name: str) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = FGSM(0.3, norm="L2", bounds=None)(model, x, y)
    expected = reference.pgd_l2(model.eval(), x, y, x, 0.3, 0.3, 1, -1e9, 1e9)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close((got - x).flatten(1).norm(dim=1), torch.full((len(x),), 0.3).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_ffgsm_in_l2_is_one_step_from_the_same_start(name: str) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = FFGSM(0.3, norm="L2", seed=7)(model, x, y)
    assert torch.equal(got, PGD(0.3, 1.25 * 0.3, steps=1, norm="L2", seed=7)(model, x, y))


def test_defaults() -> None:
    assert (FGSM().eps, FGSM().alpha, FGSM().norm) == (8 / 255, 8 / 255, "Linf")
    assert FFGSM().alpha == pytest.approx(10 / 255)
    assert FFGSM(0.3, alpha=0.375).with_eps(0.6).alpha == pytest.approx(0.75)
