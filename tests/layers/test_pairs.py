from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.helpers.modules import ModularConvNet
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.pairs import OneAfterTheOther, SideBySide, comparison
from lsa_lightning.layers.resolve import locate_layers
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, CosineDistance, RelativeError
from lsa_lightning.models import CNN, MLP


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.rand_like(x))


class Mixing(nn.Sequential):
    """Each sample sees the batch's mean."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Whole(nn.Sequential):
    """Has further tensors for the rows of its first batch, and takes those alone."""

    first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.first = x[0].clone() if self.first is None else self.first
        if not torch.equal(x[0], self.first):
            msg = "expected the batch"
            raise ValueError(msg)
        return super().forward(x)


def chosen(net: nn.Module, x: Tensor, measure: ComparisonMeasure | None = None) -> type:
    layers, sites = locate_layers(net, ["1"], x)
    net.eval()
    with torch.no_grad():
        way = comparison(net, {layers[0].name: sites["1"]}, measure or RelativeError(), x, x + 0.1)
    return type(way)


def small(cls: Callable[..., nn.Sequential] = nn.Sequential) -> nn.Sequential:
    torch.manual_seed(0)
    return cls(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


@pytest.mark.parametrize("measure", [RelativeError(), CosineDistance()])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(small, (6,)), (MLP, (2,)), (CNN, (1, 28, 28)), (ModularConvNet, (1, 8, 8))],
)
def test_both_ways_give_the_same(
    make: Callable[[], nn.Module], shape: tuple[int, ...], measure: ComparisonMeasure
) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), torch.rand(7, *shape)
    x_adv = x + 0.05 * torch.randn_like(x)
    layers, sites = locate_layers(net, None, x)
    named = {layer.name: sites[layer.name] for layer in layers}
    with torch.no_grad():
        assert SideBySide(net, named, measure).suits(x, x_adv)
        ours, expected = (way(net, named, measure).errors(x, x_adv) for way in (SideBySide, OneAfterTheOther))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert ours.shape == (7, len(layers))


@pytest.mark.parametrize(("samples", "largest"), [(65, 34), (64, 34), (20, 20), (5, 6), (4, 4)])
def test_a_batch_is_taken_in_parts_that_fit_a_cache(
    samples: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsa_lightning.layers.pairs._CACHED", 1_100)  # 34 rows of 8 numbers: 17 pairs
    net, x = small().eval(), torch.rand(samples, 6)
    x_adv = x + 0.1 * torch.randn_like(x)
    _, sites = locate_layers(net, ["1"], x)
    passes: list[int] = []
    with torch.no_grad():
        side_by_side = SideBySide(net, {"1": sites["1"]}, RelativeError())
        assert side_by_side.suits(x, x_adv)
        net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
        errors = side_by_side.errors(x, x_adv)
        both = (torch.relu(net[0](batch)) for batch in (x, x_adv))
        torch.testing.assert_close(errors[:, 0], RelativeError()(*both))
    assert sum(passes) == 2 * samples
    assert max(passes) == largest


def test_what_mixes_samples_or_draws_is_run_twice() -> None:
    x = torch.rand(10, 6)
    assert chosen(small(), x) is SideBySide
    assert chosen(small(Mixing), x) is OneAfterTheOther
    assert chosen(small(Noisy), x) is OneAfterTheOther
    assert chosen(small(Whole), x) is OneAfterTheOther
    assert chosen(small(), x, CenteredRelativeError()) is OneAfterTheOther
    assert chosen(small(), x[:3]) is OneAfterTheOther


def test_a_measure_of_ones_own_gets_the_whole_batch() -> None:
    sizes: list[int] = []

    class Own(ComparisonMeasure):
        def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
            sizes.append(len(clean))
            return (clean - perturbed).flatten(1).norm(dim=1)

    LayerSustainabilityAnalysis(small(), measure=Own()).run([(torch.rand(100, 6), torch.zeros(100).long())], PGD(0.1))
    assert sizes == [100]


def test_a_noisy_model_draws_the_same_for_both_batches() -> None:
    report = LayerSustainabilityAnalysis(small(Noisy)).run([(torch.rand(10, 6), torch.zeros(10).long())], same)
    assert float(report.mu) == 0


class Sorting(nn.Module):
    """Runs a recurrent layer on the samples in the order of their lengths, as packed sequences are made."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.rnn = nn.ReLU(), nn.GRU(1, 5, batch_first=True)
        self.fc, self.tanh, self.head = nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x != 0).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.act(x[order][..., None]), lengths[order], batch_first=True)
        return self.head(self.tanh(self.fc(self.rnn(packed)[1][-1])))[order.argsort()]


class ByTheLargest(nn.Sequential):
    """Scales by the largest number of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.abs().max())


class OwnStatistics(nn.Sequential):
    def __init__(self) -> None:
        norm = nn.BatchNorm1d(8, track_running_stats=False)
        super().__init__(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 3))


def lengths(x: Tensor) -> Tensor:
    """``x``, of which each sample ends in zeros somewhere."""
    ends = torch.randint(2, 7, (len(x),))
    return x.masked_fill(torch.arange(6) >= ends[:, None], 0.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [lambda: small(ByTheLargest), OwnStatistics], ids=["scales", "norm"])
def test_what_else_is_in_the_batch_is_not_taken_for_the_attacks_work(make: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    net, x = make(), lengths(torch.rand(32, 6) + 0.1)
    analysis = LayerSustainabilityAnalysis(net)
    assert float(analysis.run([(x, torch.zeros(32).long())], same).mu) == pytest.approx(0, abs=1e-6)
    if isinstance(net, ByTheLargest):
        three_times = analysis.run([(x, torch.zeros(32).long())], lambda _, x, y: 3 * x)
        assert float(three_times.mu) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_samples_that_are_sorted_are_not_compared_with_others(seed: int) -> None:
    torch.manual_seed(seed)
    x = lengths(torch.rand(32, 6) + 0.1)
    with pytest.raises(ValueError, match=r"sample by sample: .*fc \(16, 5\), tanh \(16, 5\)"):
        LayerSustainabilityAnalysis(Sorting()).run([(x, torch.zeros(32).long())], same)


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=self.generator)


class CallsCounted(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("make", [OwnNoise, CallsCounted])
def test_a_state_of_its_own_that_moves_on_is_said(make: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), make(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.rand(16, 6), torch.zeros(16).long())]
    with pytest.warns(UserWarning, match=r"gives other values of \['4'\] for the same inputs"):
        LayerSustainabilityAnalysis(net, layers=["1", "4"]).run(batches, same)


def same(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x


class Groups(nn.Sequential):
    """Moves what it knows along groups of neighbouring samples, as in clips or pairs of views."""

    def __init__(self, size: int, fill: bool) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.size, self.fill = size, fill

    def forward(self, x: Tensor) -> Tensor:
        missing = -len(x) % self.size if self.fill else 0
        whole = torch.cat([x, x.new_zeros(missing, 6)])
        moved = whole.view(-1, self.size, 6).roll(1, 1).reshape(-1, 6)
        return super().forward(x + 2 * moved[: len(x)])


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [2, 4, 7, 8])
def test_groups_of_neighbours_stay_together(size: int, fill: bool) -> None:
    assert chosen(Groups(size, fill), torch.rand(168, 6)) is OneAfterTheOther


class Asserting(Groups):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) % self.size == 0, "expected whole groups"
        return super().forward(x)


def test_a_model_that_asserts_whole_groups_is_compared_too() -> None:
    assert chosen(Asserting(2, fill=False), torch.rand(168, 6)) is OneAfterTheOther
