"""Losses of one's own: outputs and labels of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lsa_lightning.attacks import APGD, FFGSM, FGSM, PGD, Attack, InputSpace
from lsa_lightning.attacks.losses import cross_entropy
from lsa_lightning.evaluation import correct

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": lambda **options: FGSM(0.1, **options),
    "ffgsm": lambda **options: FFGSM(0.1, seed=0, **options),
    "pgd": lambda **options: PGD(0.1, steps=3, seed=0, **options),
    "pgd success": lambda **options: PGD(0.1, steps=3, seed=0, best="success", **options),
    "apgd": lambda **options: APGD(0.1, steps=3, seed=0, **options),
    "apgd success": lambda **options: APGD(0.1, steps=3, seed=0, best="success", **options),
}
FREE = [name for name in ATTACKS if "success" not in name]
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


def squared(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().flatten(1).sum(dim=1)


def bce(output: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, y, reduction="none").sum(dim=1)


def per_pixel(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none").flatten(1).sum(dim=1)


def soft(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def net(*shape: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, torch.Size(shape).numel()), nn.Unflatten(1, shape))


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize(
    ("loss_fn", "shape", "y"),
    [
        (squared, (1,), X.mean(dim=1, keepdim=True)),
        (bce, (3,), (torch.arange(18).reshape(6, 3) % 2).float()),
        (soft, (3,), torch.full((6, 3), 1 / 3)),
        (per_pixel, (3, 2, 2), torch.arange(24).reshape(6, 2, 2) % 3),
    ],
)
def test_what_is_no_class_is_attacked(name: str, loss_fn: Any, shape: tuple[int, ...], y: Tensor) -> None:
    model = net(*shape)
    x_adv = ATTACKS[name](loss_fn=loss_fn)(model, X, y)
    assert float((x_adv - X).abs().max()) <= 0.1
    assert (loss_fn(model(x_adv), y).sum() > loss_fn(model(X), y).sum()).item()
    with pytest.raises(ValueError, match="loss_fn="):
        ATTACKS[name]()(model, X, y)
    with pytest.raises(ValueError, match="accuracy needs classes"):
        correct(model, X, y)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_cross_entropy_is_the_default(name: str) -> None:
    model, y = net(3), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = ATTACKS[name]()(model, X, y)
    assert torch.equal(ATTACKS[name](loss_fn=cross_entropy)(model, X, y), expected)
    assert torch.equal(InputSpace(0.0, 1.0)(ATTACKS[name](loss_fn=cross_entropy))(model, X, y), expected)


@pytest.mark.parametrize("name", ["pgd success", "apgd success"])
def test_success_needs_classes_whatever_the_loss(name: str) -> None:
    with pytest.raises(ValueError, match="fractions such as"):
        ATTACKS[name](loss_fn=squared)(net(1), X, X.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("loss_fn", [F.mse_loss, lambda z, y: (z - y) ** 2, lambda z, y: 1.0])
def test_a_loss_gives_one_number_per_sample(name: str, loss_fn: Any) -> None:
    with pytest.raises(ValueError, match=r"expected loss_fn to return a loss per sample, shape \[6\] .*, got "):
        ATTACKS[name](loss_fn=loss_fn)(net(2), X, torch.zeros(6, 2))


def test_arguments() -> None:
    with pytest.raises(ValueError, match="expected loss_fn to be a function or None, got 'mse'"):
        FGSM(0.1, loss_fn="mse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected loss_fn to be given instead of loss and n_targets, got"):
        APGD(0.1, loss="dlr", loss_fn=squared)
    assert "loss_fn=squared" in repr(PGD(0.1, loss_fn=squared))
    with pytest.raises(ValueError, match=r"the model to return finite outputs of shape \[6, ...\], got \(3, 2\)"):
        FGSM(0.1, loss_fn=squared)(lambda x: x[:3, :2], X, torch.zeros(6, 2))
