"""Masking checks: planted masked models raise the flag meant for them, honest ones raise none."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers import masked_models as masked
from tests.helpers.digits import confident, held_out, trained
from tests.helpers.progress import every_progress
from torch import Tensor, nn

from lsa_lightning import MoonDataModule
from lsa_lightning.attacks import FGSM, PGD, Attack
from lsa_lightning.attacks.balls import BALLS
from lsa_lightning.functional import classification_loss
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.masking.checks import RandomSearch
from lsa_lightning.masking.flags import CRITERIA, flags
from lsa_lightning.models import MLP

Data = tuple[Tensor, Tensor]
NAMES = [
    "pgd_weaker_than_fgsm",
    "accuracy_rises_with_eps",
    "steps_do_not_help",
    "vanishing_gradients",
    "full_range_above_chance",
    "black_box_stronger",
    "not_deterministic",
    "gradients_disagree",
]


def moons() -> tuple[Data, Data]:
    data = MoonDataModule(train_size=600, val_size=1, test_size=200)
    data.setup()
    return data.splits[0].tensors, data.splits[2].tensors


def blobs() -> tuple[Data, Data]:
    """Three classes of points in the plane."""
    y = torch.arange(800) % 3
    x = torch.tensor([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]])[y] + 0.8 * torch.randn(800, 2)
    return (x[:600], y[:600]), (x[600:], y[600:])


def images() -> tuple[Data, Data]:
    """Three classes of noisy 8x8 images, whose pixels are multiples of 1/4 in [0, 1]."""
    y = torch.arange(800) % 3
    x = torch.rand(3, 1, 8, 8)[y] + 0.4 * torch.randn(800, 1, 8, 8)
    x = (4 * x).round().clamp(0, 4) / 4
    return (x[:600], y[:600]), (x[600:], y[600:])


def fit(model: nn.Module, data: Data, epochs: int, attack: Attack | None = None) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = data
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            batch = x[rows] if attack is None else attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            classification_loss(model(batch), y[rows]).backward()
            optimizer.step()
    return model


def plain_cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3))


def dropout_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(72, 3)
    )


HONEST: dict[str, Callable[[], tuple[nn.Module, Data]]] = {
    "mlp on moons": lambda: _trained(MLP(hidden=[32, 32]), moons(), 10),
    "mlp on moons, PGD": lambda: _trained(MLP(hidden=[32, 32]), moons(), 10, PGD(0.3, steps=3, bounds=None)),
    "mlp on blobs": lambda: _trained(MLP(hidden=[32], out_features=3), blobs(), 5),
    "cnn": lambda: _trained(plain_cnn(), images(), 5),
    "cnn with BatchNorm and dropout, FGSM": lambda: _trained(dropout_cnn(), images(), 8, FGSM(0.1)),
}


def _trained(model: nn.Module, data: tuple[Data, Data], epochs: int, attack: Attack | None = None) -> Any:
    return fit(model, data[0], epochs, attack), data[1]


@pytest.fixture(scope="module")
def honest() -> dict[str, tuple[nn.Module, Data]]:
    """Model and test data by name, trained once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: make() for name, make in HONEST.items()}


def checks(data: Data, radii: Any = None, **options: Any) -> MaskingChecks:
    defaults = {"eps": 0.1, "bounds": (0, 1)} if data[0].ndim == 4 else {"eps": 0.3, "bounds": None}
    made = MaskingChecks(**{**defaults, "steps": 10, **options})
    return made if radii is None else made.with_radii(radii)


def raised(model: nn.Module, data: Data, **options: Any) -> set[str]:
    found = checks(data, **options).run(model, [data])
    assert list(found) == NAMES
    return {name for name, flag in found.items() if flag.raised}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_no_flag(honest: dict[str, Any], name: str) -> None:
    model, data = honest[name]
    assert raised(model, data) == set()


def test_honest_models_raise_no_flag_in_l2(honest: dict[str, Any]) -> None:
    model, data = honest["cnn"]
    assert raised(model, data, norm="L2", eps=0.5) == set()


PLANTED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "saturated logits": (masked.SaturatedLogits, "vanishing_gradients"),
    "saturated probabilities": (masked.SaturatedProbabilities, "vanishing_gradients"),
    "quantised input": (lambda net: masked.QuantisedInput(net, 0.1), "vanishing_gradients"),
    "stochastic layer": (lambda net: masked.StochasticInput(net, 0.1), "not_deterministic"),
    "no gradient": (masked.Detached, "vanishing_gradients"),
    "non-differentiable step": (masked.HardLabels, "vanishing_gradients"),
    "gradients clipped to almost nothing": (masked.TinyGradient, "vanishing_gradients"),
    "gradients clipped to one side": (masked.OneSidedGradient, "gradients_disagree"),
    "shattered gradients": (masked.ShatteredGradient, "black_box_stronger"),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("net", ["mlp on moons", "cnn"])
def test_planted_models_raise_the_flag_meant_for_them(honest: dict[str, Any], net: str, name: str) -> None:
    model, data = honest[net]
    wrap, expected = PLANTED[name]
    assert expected in raised(wrap(model), data)


class Shifted(nn.Module):
    """All logits with the same offset, and two further classes that are ruled out."""

    def __init__(self, model: nn.Module, offset: float) -> None:
        super().__init__()
        self.model = model
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x) + self.offset
        return torch.cat([logits, torch.full((len(x), 2), -1e9)], dim=1)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("name", ["stochastic layer", "gradients clipped to one side"])
def test_classes_that_are_ruled_out_hide_nothing(honest: dict[str, Any], name: str, offset: float) -> None:
    model, data = honest["cnn"]
    wrap, expected = PLANTED[name]
    assert raised(Shifted(model, offset), data) == set()
    assert expected in raised(Shifted(wrap(model), offset), data)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["cnn", "cnn with BatchNorm and dropout, FGSM"])
def test_coarse_numbers_are_no_wrong_gradients(
    honest: dict[str, Any], name: str, dtype: torch.dtype, eps: float
) -> None:
    model, (x, y) = honest[name]
    assert raised(copy.deepcopy(model).to(dtype), (x.to(dtype), y), eps=eps) == set()
    with torch.autocast("cpu", dtype):
        assert raised(nn.Sequential(model, Widened()), (x, y), eps=eps) == set()


class Widened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


@pytest.mark.parametrize("name", ["saturated logits", "quantised input", "no gradient", "shattered gradients"])
def test_other_searches_find_what_gradients_do_not(honest: dict[str, Any], name: str) -> None:
    model, data = honest["mlp on moons"]
    assert {"steps_do_not_help", "black_box_stronger"} <= raised(PLANTED[name][0](model), data)


@pytest.mark.parametrize("name", ["saturated logits", "quantised input", "non-differentiable step"])
def test_the_full_range_shows_that_the_attack_fails(honest: dict[str, Any], name: str) -> None:
    model, data = honest["cnn"]
    assert "full_range_above_chance" in raised(PLANTED[name][0](model), data)


def test_at_a_large_radius_the_black_box_beats_gradients_clipped_to_one_side(honest: dict[str, Any]) -> None:
    model, data = honest["mlp on moons"]
    assert raised(model, data, eps=0.6) == set()
    assert "black_box_stronger" in raised(masked.OneSidedGradient(model), data, eps=0.6)


def test_confident_models_may_have_right_gradients(honest: dict[str, Any]) -> None:
    model, data = honest["cnn"]
    found = checks(data).run(masked.SaturatedLogits(model), [data])
    assert found["gradients_disagree"].raised is False


def test_a_gradient_that_is_right_at_the_data_alone(honest: dict[str, Any]) -> None:
    model, (x, y) = honest["cnn"]
    data = ((255 * x).round() / 255, y)
    assert "pgd_weaker_than_fgsm" in raised(masked.RightAtTheDataAlone(model), data)


def test_accuracy_that_rises_with_eps(honest: dict[str, Any]) -> None:
    model, data = honest["cnn"]
    assert "accuracy_rises_with_eps" in raised(masked.RoundsLargeDeviations(model, 0.25, 0.07), data, eps=0.12)


def test_samples_that_are_wrong_without_an_attack_do_not_count_as_fooled(honest: dict[str, Any]) -> None:
    model, (x, y) = honest["mlp on moons"]
    right = model(x).flatten() > 0
    found = checks((x, y)).run(model, [(x, (~right).long())])
    assert found["pgd_weaker_than_fgsm"].seen.startswith("FGSM fools 0 of 200 samples, PGD-10 0;")


class MaskedBeyond(nn.Module):
    """Fooled where two pixels have moved apart by more than 0.3, by a radius above 0.15; no gradient shows it."""

    def forward(self, x: Tensor) -> Tensor:
        apart = (x[:, 0, 0, 0] - x[:, 0, 0, 1]).detach()
        logit = 10 * (x.mean((1, 2, 3)) - 0.1)
        return torch.where(apart > 0.3, -1.0, logit)


def test_gradients_that_are_masked_beyond_the_radius_of_training() -> None:
    data = torch.full((40, 1, 4, 4), 0.5), torch.ones(40, dtype=torch.long)
    assert raised(MaskedBeyond(), data) == set()
    assert raised(MaskedBeyond(), data, radii=[0.1, 0.05]) == set()
    assert raised(MaskedBeyond(), data, radii=[0.0001, 0.2, 0.3]) == {"black_box_stronger"}
    flag = checks(data, radii=[0.3, 0.2]).run(MaskedBeyond(), [data])["black_box_stronger"]
    assert re.match(r"Square at eps 0\.2 fools 3\d of 40 samples, PGD-50 \d;", flag.seen)


def test_of_several_radii_the_smallest_that_is_masked_is_named() -> None:
    rows = seen(**{"square": 60, "longest": 30, "square 0.2": 90, "longest 0.2": 30})
    found = flags(rows, eps=0.1, beyond=[0.2], steps=20, most_steps=100)["black_box_stronger"]
    assert found.seen.startswith("Square fools 60 of 256 samples")


def test_larger_radii_without_a_flag_are_said() -> None:
    rows = seen(**{"square": 5, "square 0.2": 6, "longest 0.2": 9})
    found = flags(rows, eps=0.1, beyond=[0.2], steps=20, most_steps=100)["black_box_stronger"]
    assert found.raised is False
    assert found.seen == (
        "Square fools 5 of 256 samples, PGD-100 0; only the former 5, only the latter 0; "
        "nor is it clearly more at eps 0.2"
    )


def test_what_does_not_apply_is_said(honest: dict[str, Any]) -> None:
    model, data = honest["mlp on moons"]
    flag = checks(data).run(model, [data])["full_range_above_chance"]
    assert (flag.raised, flag.seen) == (None, "does not apply: the inputs have no bounds")
    found = checks(data).run(masked.Detached(model), [data])
    assert found["pgd_weaker_than_fgsm"].seen == "does not apply: some input gradients are NaN, or the model gives none"
    assert [name for name in NAMES if found[name].raised is None] == [
        "pgd_weaker_than_fgsm",
        "accuracy_rises_with_eps",
        "full_range_above_chance",
        "gradients_disagree",
    ]


def test_the_first_samples_of_several_batches_count(honest: dict[str, Any]) -> None:
    model, (x, y) = honest["mlp on moons"]
    batches = list(zip(x.split(60), y.split(60), strict=True))
    found = checks((x, y), n_samples=100, steps=1, n_queries=1).run(model, batches)
    assert " of 100 samples" in found["pgd_weaker_than_fgsm"].seen
    assert found == checks((x, y), n_samples=100, steps=1, n_queries=1).run(model, iter(batches))


def test_the_model_and_the_random_state_are_left_alone(honest: dict[str, Any]) -> None:
    model, data = honest["cnn with BatchNorm and dropout, FGSM"]
    model.train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    checks(data, n_samples=20, steps=1, n_queries=1).run(model, [data])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_each_check_has_its_criterion() -> None:
    assert CRITERIA.keys() == flags(seen(), eps=0.1, steps=20, most_steps=100).keys()


def seen(samples: int = 256, **counts: int) -> dict[str, Tensor]:
    """What an ordinary model shows; by name, how many of the last samples the flag holds for."""
    names = ["fgsm", "quarter", "half", "pgd", "longest", "random", "square", "range", "vanished", "relabelled"]
    names += ["longest 0.2", "square 0.2"]
    rows = {name: torch.arange(samples) >= samples - counts.get(name, 0) for name in names}
    return {
        **rows,
        "label": torch.arange(samples) % 2,
        "gradient": torch.ones(samples),
        "agreement": torch.ones(samples) - 0.5 * (torch.arange(samples) >= samples - counts.get("wrong", 0)),
        "change": torch.zeros(samples),
        "clean": torch.ones(samples, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("name", "silent", "loud"),
    [
        ("pgd_weaker_than_fgsm", {"fgsm": 9}, {"fgsm": 10}),
        ("pgd_weaker_than_fgsm", {"samples": 1000, "fgsm": 20}, {"samples": 1000, "fgsm": 21}),
        ("accuracy_rises_with_eps", {"quarter": 9}, {"quarter": 10}),
        ("accuracy_rises_with_eps", {"half": 9}, {"half": 10}),
        ("steps_do_not_help", {"random": 9}, {"random": 10}),
        ("steps_do_not_help", {"longest": 20, "random": 90}, {"longest": 20, "pgd": 15, "random": 90}),
        ("vanishing_gradients", {"vanished": 12}, {"vanished": 13}),
        ("full_range_above_chance", {"range": 110}, {"range": 90}),
        ("black_box_stronger", {"square": 9}, {"square": 10}),
        ("black_box_stronger", {"square": 60, "longest": 51}, {"square": 61, "longest": 51}),
        ("black_box_stronger", {"square 0.2": 60, "longest 0.2": 51}, {"square 0.2": 61, "longest 0.2": 51}),
        ("gradients_disagree", {"wrong": 50}, {"wrong": 52}),
    ],
)
def test_what_chance_can_do_raises_no_flag(name: str, silent: dict[str, int], loud: dict[str, int]) -> None:
    counts = {"range": silent.get("samples", 256)}
    options: dict[str, Any] = {"eps": 0.1, "beyond": [0.2], "steps": 20, "most_steps": 100}
    assert flags(seen(**{**counts, **silent}), **options)[name].raised is False
    assert flags(seen(**{**counts, **loud}), **options)[name].raised is True


def test_gradients_are_compared_where_there_is_something_to_compare() -> None:
    rows = seen()
    rows["agreement"] = torch.full((256,), torch.nan)
    rows["agreement"][:9] = 0.0
    found = flags(rows, eps=0.1, steps=20, most_steps=100)["gradients_disagree"]
    assert found.raised is None
    assert re.search(r"only \d+ samples have gradients and changes to compare, of 10 needed", found.seen)
    rows["agreement"][9] = 0.0
    assert flags(rows, eps=0.1, steps=20, most_steps=100)["gradients_disagree"].raised is True


def test_figures_are_named() -> None:
    found = flags(seen(fgsm=12, longest=2, range=256), eps=0.1, steps=20, most_steps=100)
    assert found["pgd_weaker_than_fgsm"].to_dict() == {
        "raised": True,
        "seen": "FGSM fools 12 of 256 samples, PGD-100 2; only the former 10, only the latter 0",
    }


class Idle(Attack):
    """Fools nobody."""

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        return x


def test_no_flag_is_raised_that_more_steps_take_back(honest: dict[str, Any]) -> None:
    model, data = honest["mlp on moons"]
    few = checks(data)
    assert ", PGD-10 " in few.run(model, [data])["pgd_weaker_than_fgsm"].seen
    few.white_box["pgd"] = Idle(0.3, bounds=None)
    flag = few.run(model, [data])["pgd_weaker_than_fgsm"]
    assert not flag.raised
    assert ", PGD-50 " in flag.seen


def test_whom_few_steps_fool_more_steps_fool_too(honest: dict[str, Any]) -> None:
    model, data = honest["mlp on moons"]
    idle = checks(data, n_queries=30)
    idle.longest = PGD(1e-9, bounds=None, best="success")
    idle.white_box["pgd"] = PGD(0.1, bounds=None, best="success")
    seen = idle.run(model, [data])["steps_do_not_help"].seen
    assert seen.split(", ")[0].split()[2] == seen.split(", ")[1].split()[1] != "0"


@pytest.mark.parametrize("options", [{"eps": 0.0}, {"n_samples": 0}, {"n_queries": 0}, {"steps": 0}])
def test_wrong_arguments_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        MaskingChecks(**{"eps": 0.1, **options})


@pytest.mark.parametrize("radii", [[], [0.2, 0.0]])
def test_wrong_radii_are_named(radii: Any) -> None:
    with pytest.raises(ValueError, match=r"expected radii.*got"):
        MaskingChecks(0.1).with_radii(radii)


def test_an_empty_dataloader_is_named() -> None:
    with pytest.raises(ValueError, match="got an empty one"):
        MaskingChecks(0.1).run(nn.Identity(), [])


@pytest.mark.parametrize("norm", BALLS)
def test_random_search_keeps_what_it_found(norm: str) -> None:
    x, y = torch.zeros(50, 2), torch.ones(50, dtype=torch.int64)
    one, many = (RandomSearch(1.0, n, norm=norm, bounds=None, seed=0)(lambda x: 0.5 - x[:, 0], x, y) for n in (1, 30))
    assert 0 < int((one[:, 0] > 0.5).sum()) < int((many[:, 0] > 0.5).sum()) == 50


def test_float16_alone_lets_no_gradient_vanish() -> None:
    network, (x, y) = trained("mlp, normal"), held_out(100)
    checks = MaskingChecks(eps=0.1, steps=2, n_queries=2)
    with torch.autocast("cpu", torch.float16):
        low = checks.run(confident(network, 3.0), [(x, y)])
    assert not low["vanishing_gradients"].raised
    assert not low["gradients_disagree"].raised


@pytest.mark.parametrize("radii", [None, [0.1, 0.3]])
@pytest.mark.parametrize("bounds", [None, (-4.0, 4.0)])
def test_progress_counts_the_forward_passes_of_every_sample(bounds: Any, radii: Any) -> None:
    x, y = torch.randn(10, 2), torch.arange(10) % 2
    data = (x[:6], y[:6]), (x[6:], y[6:])
    few = checks(data[0], radii, eps=0.1, bounds=bounds, n_samples=9, steps=2, n_queries=7)
    with every_progress() as shown:
        few.run(MLP(hidden=(4,)), data)
    beyond = 0 if radii is None else 1
    passes = 3 * (1 + (3 + beyond) * 2) + (2 + beyond) * 7 + (0 if bounds is None else 3 * 2)
    more = 0 if len(shown) == 1 else 3 * 10 * (beyond + (1 if bounds is None else 2))
    assert [(each.total, each.done) for each in shown] == [(9 * each, 9 * each) for each in (passes, more) if each]


class SquareRoot(nn.Module):
    """The gradient of a root at 0, for a share of the samples."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.body, self.share = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), share

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, :1].detach()
        vector = torch.where(first < self.share, x - x.detach(), torch.ones_like(x))
        return self.body(x) + vector.square().sum(1, keepdim=True).sqrt() * torch.tensor([1.0, 0.0, 0.0])


def test_gradients_that_are_nan_for_some_samples_are_flagged() -> None:
    torch.manual_seed(0)
    model, x = SquareRoot(0.3), torch.rand(64, 4)
    found = MaskingChecks(0.1, steps=3, n_queries=5, progress=False).run(model, [(x, model(x).argmax(1))])
    assert found["vanishing_gradients"].raised
    assert re.match(r"input gradients of \d+ of 64 samples are 0, NaN or", found["vanishing_gradients"].seen)
    assert "nan" not in found["vanishing_gradients"].seen
    assert found["pgd_weaker_than_fgsm"].raised is None
