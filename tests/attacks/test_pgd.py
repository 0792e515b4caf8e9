from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers import reference_attacks as reference
from tests.helpers.attack_cases import MODELS, make_batch, make_model

from lsa_lightning.attacks import FGSM, PGD, TPGD
from lsa_lightning.functional import classification_loss

VECTOR_MODELS = [name for name in MODELS if not name.startswith("images")]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("eps", "alpha", "steps"), [(0.1, 0.02, 10), (0.3, 0.4, 3)])
def test_pgd_linf_equals_the_reference(name: str, random_start: bool, eps: float, alpha: float, steps: int) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = PGD(eps, alpha, steps=steps, random_start=random_start, seed=5)(model, x, y)
    start = reference.uniform_start(x, eps, seed=5) if random_start else x
    expected = reference.pgd_linf(model.eval(), x, y, start, eps, alpha, steps, 0.0, 1.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VECTOR_MODELS)
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("eps", "alpha", "steps"), [(0.5, 0.1, 10), (0.3, 0.4, 3)])
def test_pgd_l2_equals_the_reference(name: str, random_start: bool, eps: float, alpha: float, steps: int) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = PGD(eps, alpha, steps=steps, norm="L2", random_start=random_start, seed=5)(model, x, y)
    start = reference.l2_start(x, eps, seed=5) if random_start else x
    expected = reference.pgd_l2(model.eval(), x, y, start, eps, alpha, steps, 0.0, 1.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("eps", "alpha", "steps"), [(0.1, 0.02, 10), (0.3, 0.4, 3)])
def test_tpgd_equals_the_reference(name: str, eps: float, alpha: float, steps: int) -> None:
    model = make_model(name, torch.float64)
    x, y = make_batch(name, dtype=torch.float64)
    got = TPGD(eps, alpha, steps=steps, seed=5)(model, x, y)
    start = reference.normal_start(x, seed=5)
    expected = reference.tpgd(model.eval(), x, start, eps, alpha, steps, 0.0, 1.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bounds", [None, (-1.0, 2.0)])
def test_bounds_other_than_those_of_pixels(bounds: tuple[float, float] | None) -> None:
    model = make_model("many classes", torch.float64)
    x, y = make_batch("many classes", dtype=torch.float64)
    low, high = bounds or (-1e9, 1e9)
    got = PGD(0.4, steps=4, random_start=False, bounds=bounds)(model, x * 3 - 1, y)
    expected = reference.pgd_linf(model.eval(), x * 3 - 1, y, x * 3 - 1, 0.4, 0.25, 4, low, high)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_one_full_step_without_a_random_start_is_fgsm() -> None:
    model, (x, y) = make_model("many classes"), make_batch("many classes")
    assert torch.equal(PGD(0.1, alpha=0.1, steps=1, random_start=False)(model, x, y), FGSM(0.1)(model, x, y))


def test_more_steps_reach_a_higher_loss() -> None:
    model, (x, y) = make_model("many classes").eval(), make_batch("many classes", n=64)
    few, many = (
        classification_loss(model(PGD(0.2, alpha=0.02, steps=n, random_start=False)(model, x, y)), y).item()
        for n in (2, 12)
    )
    assert many > few


def test_tpgd_does_not_use_the_labels_and_raises_the_divergence() -> None:
    model, (x, y) = make_model("many classes").eval(), make_batch("many classes")
    x_adv = TPGD(0.2, seed=0)(model, x, y)
    assert torch.equal(x_adv, TPGD(0.2, seed=0)(model, x, (y + 1) % 7))
    p, q = reference.probabilities(model(x)), reference.probabilities(model(x_adv))
    assert reference.kl(p, q).min().item() > 1e-4


def test_defaults() -> None:
    assert PGD().alpha == pytest.approx(2 / 255)
    assert PGD(eps=0.5, steps=5).alpha == pytest.approx(0.25)
    assert TPGD().alpha == pytest.approx(2 / 255)
    assert (PGD().steps, TPGD().steps) == (10, 10)


@pytest.mark.parametrize("steps", [0, -1, 2.0, "3", True, None])
def test_steps_must_be_a_positive_integer(steps: Any) -> None:
    for attack in (PGD, TPGD):
        with pytest.raises(ValueError, match=f"{attack.__name__}: expected steps to be an integer >= 1, got {steps!r}"):
            attack(0.1, steps=steps)


def test_success_returns_x_where_the_model_errs_and_else_the_first_point_that_fools_it() -> None:
    model, (x, y) = make_model("many classes").eval(), make_batch("many classes", n=64)
    y[8:] = model(x).argmax(1)[8:]
    options: dict[str, Any] = {"alpha": 0.05, "random_start": False}
    found = PGD(0.6, steps=12, best="success", **options)(model, x, y)
    path = [x, *(PGD(0.6, steps=n, **options)(model, x, y) for n in range(1, 13))]
    fooled = torch.stack([model(point).argmax(1) != y for point in path])
    first = torch.where(fooled.any(0), fooled.int().argmax(0), torch.tensor(12))
    assert len(set(first.tolist())) > 3
    torch.testing.assert_close(found, torch.stack(path)[first, torch.arange(64)])


def test_success_leaves_what_is_misclassified_where_it_is_though_the_start_is_random() -> None:
    model, (x, y) = make_model("many classes").eval(), make_batch("many classes", n=64)
    wrong = model(x).argmax(1) != y
    x_adv = PGD(0.1, best="success", seed=0)(model, x, y)
    assert 0 < int(wrong.sum()) < 64
    assert torch.equal(x_adv[wrong], x[wrong])
    assert not (x_adv[~wrong] == x[~wrong]).flatten(1).all(1).any()


def test_best_is_last_or_success() -> None:
    with pytest.raises(ValueError, match=r"expected best to be one of \['last', 'success'\], got 'loss'"):
        PGD(best="loss")


def test_who_is_fooled_is_in_no_pass_any_more() -> None:
    model, (x, y) = make_model("many classes", torch.float64).eval(), make_batch("many classes", 64, torch.float64)
    y[8:] = model(x).argmax(1)[8:]
    options: dict[str, Any] = {"alpha": 0.05, "random_start": False}
    path = [x, *(PGD(0.6, steps=n, **options)(model, x, y) for n in range(1, 11))]
    fooled = torch.stack([model(point).argmax(1) != y for point in path])
    sizes: list[int] = []
    handle = model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    PGD(0.6, steps=12, best="success", **options)(model, x, y)
    handle.remove()
    standing = [int((~fooled[:n].any(0)).sum()) for n in range(1, 12)]
    few = standing[0] // 4  # of the first part, to see that the model does not mix samples
    assert sizes == [64, few, few, 64, standing[0], *standing]  # x, and x as the start again
    assert len(set(standing)) > 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_start_of_tpgd_is_not_lost_by_rounding(dtype: torch.dtype) -> None:
    x = (255 * torch.rand(20, 6) * 0.7 + 70).to(dtype)
    attack = TPGD(25.0, bounds=(0.0, 255.0), seed=0)
    moved = attack.start(attack.threat.ball(x)) != x
    assert moved.any(1).all()
    assert moved.float().mean() > 0.3
