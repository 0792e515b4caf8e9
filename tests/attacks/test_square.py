from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import Square
from lsa_lightning.attacks.square import as_images, bump, patch_share, patch_size
from lsa_lightning.functional import predicted_labels


class NotDifferentiable(nn.Module):
    """Two classes, told apart by the sign of a rounded sum: no gradient anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        total = ((x.flatten(1) - 0.5).mean(1) * 1000).round()
        return torch.stack([-total, total], dim=1).detach()


def near_the_boundary(*shape: int, n: int = 6) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.02 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    return x, predicted_labels(NotDifferentiable()(x))


def test_the_share_follows_the_published_schedule() -> None:
    at = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 10000]
    halvings = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert [patch_share(query, 10_000, 0.8) for query in at] == [0.8 / 2**k for k in halvings]
    assert patch_share(50, 500, 0.8) == patch_share(1000, 10_000, 0.8)


@pytest.mark.parametrize(("rescaled", "budget"), [(True, 100), (False, 10_000)])
def test_the_schedule_is_stretched_to_the_budget_or_goes_by_the_number_of_the_query(
    rescaled: bool, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def noted(query: int, n_queries: int, p_init: float) -> float:
        asked.append((query, n_queries))
        return patch_share(query, n_queries, p_init)

    monkeypatch.setattr("lsa_lightning.attacks.square.patch_share", noted)
    x, y = torch.zeros(2, 1, 4, 4), torch.tensor([0, 0])
    Square(0.1, 100, rescale_schedule=rescaled, seed=0)(lambda x: torch.tensor([[1.0, 0.0]] * len(x)), x, y)
    assert asked[:2] == [(0, budget), (1, budget)]


@pytest.mark.parametrize(
    ("share", "height", "width", "expected"),
    [(0.8, 28, 28, (25, 25)), (1e-6, 28, 28, (1, 1)), (0.5, 1, 10, (1, 5)), (0.5, 10, 1, (5, 1)), (1.0, 3, 7, (3, 7))],
)
def test_patch_size(share: float, height: int, width: int, expected: tuple[int, int]) -> None:
    assert patch_size(share, height, width) == expected


def test_bump_rises_towards_the_middle_and_has_norm_1() -> None:
    heights = bump(5, 5)
    assert float(heights.norm()) == pytest.approx(1.0)
    assert heights[0, 0] < heights[1, 1] < heights[2, 2]
    ratio = (1 / 9 + 1 / 4) / (1 / 9)
    assert float(heights[1, 1] / heights[0, 0]) == pytest.approx(ratio)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("shape", [(2,), (9,), (3, 7), (1, 6, 6), (3, 5, 8), (2, 3, 4, 5)], ids=str)
def test_it_fools_a_model_without_gradients(norm: str, shape: tuple[int, ...]) -> None:
    x, y = near_the_boundary(*shape)
    eps = 0.05 if norm == "Linf" else 0.05 * x[0].numel() ** 0.5
    x_adv = Square(eps, 200, norm=norm, seed=0)(NotDifferentiable(), x, y)
    delta = (x_adv.double() - x.double()).flatten(1)
    assert (delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)).max() <= eps
    assert (predicted_labels(NotDifferentiable()(x_adv)) != y).all()


def test_linf_candidates_lie_on_the_corners_of_the_ball() -> None:
    x = torch.full((4, 3, 6, 6), 0.5)
    x_adv = Square(0.25, 5, seed=0)(lambda p: p.mean((2, 3)), x, torch.zeros(4).long())
    assert set((x_adv - x).abs().unique().tolist()) == {0.25}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_sample_influences_another(norm: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
    x = torch.rand(6, 1, 6, 6)
    y = predicted_labels(net(x))
    together = Square(0.05, 30, norm=norm, seed=2)(net, x, y)
    swapped = torch.cat([x[:1], x[1:].flip(0)]), torch.cat([y[:1], y[1:].flip(0)])
    torch.testing.assert_close(Square(0.05, 30, norm=norm, seed=2)(net, *swapped)[0], together[0])


def test_a_sample_that_is_wrong_from_the_start_is_returned_as_it_is_and_not_queried() -> None:
    queried: list[int] = []

    def net(points: Tensor) -> Tensor:
        queried.append(len(points))
        return NotDifferentiable()(points)

    x, y = near_the_boundary(4)
    x_adv = Square(0.001, 3, seed=0)(net, x, 1 - y)
    assert torch.equal(x_adv, x)
    assert queried == [6]


def test_the_margin_never_rises_with_more_queries() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    x = torch.rand(8, 1, 6, 6)
    y = predicted_labels(net(x))
    kept = []
    for queries in (1, 300):
        logits = net(Square(0.02, queries, p_init=0.3, seed=0)(net, x, y))
        kept.append(logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))
    assert (kept[1] <= kept[0] + 1e-6).all()
    assert (kept[1] < kept[0] - 1e-3).any()


def test_inputs_of_any_rank_are_images() -> None:
    shapes = [(2, 5), (2, 3, 5), (2, 3, 4, 5), (2, 3, 4, 5, 6)]
    expected = [(2, 1, 1, 5), (2, 3, 1, 5), (2, 3, 4, 5), (2, 12, 5, 6)]
    assert [tuple(as_images(torch.zeros(shape)).shape) for shape in shapes] == expected


@pytest.mark.parametrize("options", [{"n_queries": 0}, {"p_init": 0.0}, {"p_init": 1.5}], ids=str)
def test_bad_arguments_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Square: expected (n_queries|p_init) to be .*, got "):
        Square(**options)  # type: ignore[arg-type]
