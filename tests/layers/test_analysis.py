from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.modules import ModularConvNet, as_dicts, images, loader
from tests.helpers.no_float64 import NoFloat64
from tests.helpers.progress import every_progress
from tests.helpers.snapshots import assert_untouched, snapshot
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import LayerSustainabilityAnalysis, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM, PGD, GaussianNoise
from lsa_lightning.attacks.layer_loss import LayerLoss
from lsa_lightning.measures import (
    CenteredRelativeError,
    ComparisonMeasure,
    CosineDistance,
    KLDivergence,
    RelativeSquaredError,
)
from lsa_lightning.models import MLP

LAYERS = ["relu1", "relu2", "act"]


def conv_net(dropout: float = 0.5) -> ModularConvNet:
    torch.manual_seed(0)
    return ModularConvNet(dropout)


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.1 * y.view(-1, 1, 1, 1)).clamp(0, 1)


def oracle(net: ModularConvNet, x: Tensor, x_adv: Tensor) -> np.ndarray:
    """CM of every sample and layer in float64 NumPy, ``[M, L]``."""
    net.eval()
    clean, moved = net.hidden(x), net.hidden(x_adv)
    columns = []
    for name in clean:
        a, b = (side[name].detach().numpy().astype(np.float64).reshape(len(x), -1) for side in (clean, moved))
        columns.append(np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1))
    net.train()
    return np.stack(columns, axis=1)


def test_equals_the_formulas_written_out() -> None:
    net = conv_net()
    x, y = images(48)
    values = oracle(net, x, shifted(net, x, y))
    report = LayerSustainabilityAnalysis(net).run(loader(), shifted)
    assert report.layers == LAYERS
    assert report.learnable == ["conv1", "conv2", "fc1"]
    np.testing.assert_allclose(report.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(report.std, values.std(0), atol=1e-6)
    np.testing.assert_allclose(report.mu, values.mean(), atol=1e-6)
    np.testing.assert_allclose(report.sigma, values.std(), atol=1e-6)
    np.testing.assert_allclose(report.z_scores, (values.mean(0) - values.mean()) / values.std(), atol=1e-5)
    assert report.samples == 48


@given(cut=st.integers(1, 48))
@settings(max_examples=8, deadline=None)
def test_does_not_depend_on_how_the_data_is_cut_into_batches(cut: int) -> None:
    net = conv_net()
    whole = LayerSustainabilityAnalysis(net).run(loader(batch_size=48), shifted)
    parts = LayerSustainabilityAnalysis(net).run(loader(batch_size=cut), shifted)
    for name in ("mean", "std", "mu", "sigma"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-5)


@given(
    frozen=st.sets(st.sampled_from(["conv1", "bn1", "dropout", "fc1"])),
    training=st.booleans(),
    fails_after=st.none() | st.integers(0, 12),
    attack=st.sampled_from([FGSM(0.1), PGD(0.1, steps=2), GaussianNoise(0.1)]),
)
@settings(max_examples=30, deadline=None)
def test_leaves_everything_as_it_was_also_after_an_exception(
    frozen: set[str], training: bool, fails_after: int | None, attack: Any
) -> None:
    net = conv_net()
    net.train(training)
    for name in frozen:
        net.get_submodule(name).eval().requires_grad_(False)
    net.fc2.weight.grad = torch.ones_like(net.fc2.weight)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == fails_after:
            msg = "planted"
            raise RuntimeError(msg)

    handle = net.conv2.register_forward_hook(count)
    before = snapshot(net)
    try:
        LayerSustainabilityAnalysis(net).run([images(16), images(16)], attack)
    except RuntimeError as error:
        assert str(error) == "planted"  # noqa: PT017
    assert_untouched(before, snapshot(net))
    handle.remove()


def test_runs_in_inference_mode() -> None:
    expected = LayerSustainabilityAnalysis(conv_net()).run(loader(), FGSM(0.1))
    analysis = LayerSustainabilityAnalysis(conv_net())
    with torch.inference_mode():
        report = analysis.run(loader(), FGSM(0.1))
    torch.testing.assert_close(report.mean.clone(), expected.mean)


def test_limit_batches_dict_batches_and_other_layers_and_measures() -> None:
    analysis = LayerSustainabilityAnalysis(conv_net(), layers=["fc2"], measure=CosineDistance())
    report = analysis.run(loader(collate=as_dicts), FGSM(0.1), limit_batches=1)
    assert report.samples == 16
    assert report.layers == ["fc2"]
    assert report.measure == "cosine_distance"
    assert report.attack == "FGSM(norm='Linf', bounds=(0.0, 1.0), eps=0.1, alpha=0.1)"


def test_a_measure_of_ones_own_is_one_class() -> None:
    class MaximumNorm(ComparisonMeasure):
        def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
            return (clean - perturbed).abs().flatten(1).amax(1)

    report = LayerSustainabilityAnalysis(conv_net(), measure=MaximumNorm()).run(loader(), shifted)
    assert report.measure == "maximum_norm"


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_batches_outside_its_range(limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit_batches to be an integer >= 1 or None, got {limit}"):
        LayerSustainabilityAnalysis(conv_net()).run(loader(), FGSM(0.1), limit_batches=limit)


def test_a_model_and_an_attack_must_be_such() -> None:
    with pytest.raises(ValueError, match="expected model to be a Module, got 'mlp'"):
        LayerSustainabilityAnalysis("mlp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected attack to be an attack .* got 'fgsm'"):
        LayerSustainabilityAnalysis(conv_net()).run(loader(), "fgsm")  # type: ignore[arg-type]


def test_an_empty_dataloader_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a dataloader with at least one batch, got an empty one"):
        LayerSustainabilityAnalysis(conv_net()).run([], FGSM(0.1))


def test_nan_in_a_batch_is_an_error() -> None:
    x, y = images(4)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="expected finite inputs, got 1 values that are NaN or infinite"):
        LayerSustainabilityAnalysis(conv_net()).run([(x, y)], FGSM(0.1))


def test_nan_in_a_layer_is_an_error_that_names_it() -> None:
    net = conv_net()
    net.fc1.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"expected finite representations, got NaN or infinity .* of \['act'\]"):
        LayerSustainabilityAnalysis(net).run(loader(), shifted)


def test_a_layer_whose_first_dimension_is_not_the_batch_is_an_error() -> None:
    class Sequence(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.repeat(3, 1))[: len(x)]

    model = Sequence(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    message = r"first dimension of these is not the batch, 4, sample by sample: .*1 \(12, 2\)"
    with pytest.raises(ValueError, match=message):
        LayerSustainabilityAnalysis(model).run([(torch.rand(4, 2), torch.zeros(4))], FGSM(0.1))


def test_a_dead_layer_is_finite() -> None:
    net = MLP(hidden=(4, 4), activation=nn.ReLU)
    with torch.no_grad():
        net.fc2.weight.fill_(0)
        net.fc2.bias.fill_(-1)
    report = LayerSustainabilityAnalysis(net).run([(torch.rand(8, 2), torch.zeros(8))], FGSM(0.1))
    assert report.mean[1] == 0


def test_runs_where_there_is_no_float64() -> None:
    expected = LayerSustainabilityAnalysis(conv_net()).run(loader(), shifted)
    with NoFloat64():
        found = LayerSustainabilityAnalysis(conv_net()).run(loader(), shifted)
    torch.testing.assert_close(found.mean.double(), expected.mean, atol=1e-6, rtol=0)
    assert found.most_vulnerable(0.0) == expected.most_vulnerable(0.0)


def test_progress_counts_the_forward_passes_of_each_batch() -> None:
    with every_progress() as shown:
        LayerSustainabilityAnalysis(conv_net()).run(loader(), PGD(0.1, steps=2), limit_batches=2)
        LayerSustainabilityAnalysis(conv_net()).run(iter([images(4)]), shifted)
    assert [(each.label, each.total, each.done) for each in shown] == [("Analysing", 12, 12), ("Analysing", 3, 3)]


def plain_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def samples(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 6), torch.randint(3, (n,))


@pytest.mark.parametrize("measure", [RelativeSquaredError(), CenteredRelativeError()])
def test_a_last_batch_of_one_says_nothing_about_a_spread(measure: ComparisonMeasure) -> None:
    x, y = samples(101)
    analysis = LayerSustainabilityAnalysis(plain_net(), measure=measure)
    expected = analysis.run([(x[:100].split(50)[i], y[:100].split(50)[i]) for i in range(2)], FGSM(0.1))
    with pytest.warns(UserWarning, match="needs 2 samples in a batch: 1 in smaller ones left out"):
        report = analysis.run(list(zip(x.split(50), y.split(50), strict=True)), FGSM(0.1))
    assert report.samples == 100
    torch.testing.assert_close(report.mean, expected.mean)
    with pytest.warns(UserWarning, match="2 in smaller"), pytest.raises(ValueError, match="2 samples in a batch, got"):
        analysis.run([(x[:1], y[:1]), (x[1:2], y[1:2])], FGSM(0.1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dataloader_leaves_the_random_state_alone_and_gives_each_run_the_same(shuffle: bool) -> None:
    data = DataLoader(TensorDataset(*samples(64)), 16, shuffle=shuffle)
    analysis, before = LayerSustainabilityAnalysis(plain_net()), torch.get_rng_state()
    first, second = (analysis.run(data, FGSM(0.1), limit_batches=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.mean, second.mean)


def test_a_function_that_writes_into_its_input_is_compared_with_what_it_was() -> None:
    def in_place(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x.add_(0.1)

    x, y = samples(16)
    report = LayerSustainabilityAnalysis(plain_net()).run([(x, y)], in_place)
    expected = LayerSustainabilityAnalysis(plain_net()).run([samples(16)], lambda _, x, __: x + 0.1)
    assert torch.equal(x, samples(16)[0])
    assert float(report.mu) > 0.01
    torch.testing.assert_close(report.mean, expected.mean)
    assert str(report).startswith("Layer sustainability under in_place, 16 samples")


def test_an_empty_batch_is_named() -> None:
    x, y = samples(16)
    with pytest.raises(ValueError, match=r"at least one sample \[N, ...\], got inputs \(0, 6\)"):
        LayerSustainabilityAnalysis(plain_net()).run([(x, y), (x[:0], y[:0])], FGSM(0.1))


def test_the_softmax_is_not_taken_twice() -> None:
    analysis = LayerSustainabilityAnalysis(plain_net(), layers=["1", "probabilities"], measure=KLDivergence())
    with pytest.raises(ValueError, match="the layer 'logits' with KLDivergence, which takes the softmax itself"):
        analysis.run([samples(16)], FGSM(0.1))
    loss = LayerLoss(LayerwiseRegularizer(1.0, measure=KLDivergence()), layers=["probabilities"])
    with pytest.raises(ValueError, match="the layer 'logits' with KLDivergence"):
        PGD(0.1, loss_fn=loss)(plain_net(), *samples(16))


@pytest.mark.parametrize("classes", [1, 3])
def test_outputs_of_a_model_that_squeezes_belong_to_their_sample(classes: int) -> None:
    class Squeezing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    model, layers = Squeezing(6, classes), ["logits", "probabilities"]
    x, y = samples(5)
    analysis = LayerSustainabilityAnalysis(model, layers=layers)
    one_by_one = analysis.run(list(zip(x.split(1), y.split(1), strict=True)), lambda _, x, __: x + 0.1)
    together = analysis.run([(x, y)], lambda _, x, __: x + 0.1)
    torch.testing.assert_close(one_by_one.mean, together.mean)


def test_small_values_keep_their_digits() -> None:
    report = LayerSustainabilityAnalysis(plain_net(), measure=RelativeSquaredError()).run([samples(64)], FGSM(1e-4))
    for value in (*report.mean.tolist(), float(report.mu)):
        assert 0 < value < 1e-3
        assert f"{value:.1e}" in str(report)
