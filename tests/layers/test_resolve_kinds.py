"""Which layers are found, whatever the batch, and where the last layer of a block is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18

from lsa_lightning import LayerSustainabilityAnalysis
from lsa_lightning.attacks import FGSM
from lsa_lightning.layers.calls import CallSite
from lsa_lightning.layers.resolve import Layer, LayerSpec, call_sites, resolve_layers
from lsa_lightning.models import PreActResNet18
from lsa_lightning.steps.model_call import ModelCall, bound


class Positions(nn.Module):
    """An MLP on three positions, whose rows are no samples, beside one on the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 16))
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.pos(torch.arange(3.0, device=x.device).view(3, 1)).mean(0)
        return self.fc2(self.act(self.fc1(x) + bias))


class SequenceFirst(nn.Module):
    """Eight steps first, samples second."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.act, self.head = nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.emb(x.t().unsqueeze(2))).mean(0))


class Repeated(nn.Sequential):
    """Three rows for each sample: one after the other, or sample by sample."""

    def __init__(self, sample_by_sample: bool) -> None:
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        self.sample_by_sample = sample_by_sample

    def forward(self, x: Tensor) -> Tensor:
        rows = x.repeat_interleave(3, dim=0) if self.sample_by_sample else x.repeat(3, 1)
        return super().forward(rows)[: len(x)]


SIZES = [1, 2, 3, 8, 32]


def x_of(samples: int) -> Tensor:
    return torch.rand(samples, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", SIZES)
def test_the_layers_do_not_depend_on_the_size_of_the_batch(samples: int) -> None:
    assert resolve_layers(Positions(), None, x_of(samples)) == [Layer("act", "fc1")]
    assert resolve_layers(Repeated(True), None, x_of(samples)) == [Layer("1", "0")]


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("make", [SequenceFirst, lambda: Repeated(False)], ids=["sequence first", "interleaved"])
def test_rows_that_are_no_samples_are_refused_for_every_batch(make: Callable[[], nn.Module], samples: int) -> None:
    with pytest.raises(ValueError, match=r"is not the batch, \d+, sample by sample"):
        resolve_layers(make(), None, x_of(samples))


def test_the_profile_does_not_depend_on_the_size_of_the_batch() -> None:
    torch.manual_seed(0)
    model, x, y = Positions(), x_of(24), torch.arange(24) % 4
    reports = [
        LayerSustainabilityAnalysis(model).run(zip(x.split(size), y.split(size), strict=True), FGSM(0.05))
        for size in (24, 3, 1)
    ]
    for report in reports[1:]:
        assert report.layers == reports[0].layers
        torch.testing.assert_close(report.mu, reports[0].mu, rtol=1e-5, atol=0)


def test_the_last_layer_of_a_transformers_block_is_read_before_the_sum() -> None:
    model = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    read_at = {layer.learnable: layer.name for layer in resolve_layers(model, None, torch.rand(2, 3, 32, 32))}
    block = "encoder.layers.encoder_layer_0.mlp"
    assert read_at[f"{block}.0"] == f"{block}.1"
    assert read_at[f"{block}.3"] == f"{block}.3"


class PostNorm(nn.Module):
    """The sum comes first, its norm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.norm, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        return self.head(self.norm(torch.add(hidden, self.fc(hidden))))


def test_a_norm_behind_a_sum_is_not_its_layers_own() -> None:
    assert [layer.name for layer in resolve_layers(PostNorm(), None, x_of(4))] == ["stem", "fc"]


def test_the_last_layer_of_a_pre_activation_block_is_read_at_the_activation_that_follows() -> None:
    read_at = {
        layer.learnable: layer.name for layer in resolve_layers(PreActResNet18(), None, torch.rand(2, 3, 32, 32))
    }
    assert read_at["stage1.0.conv2"] == "stage1.1.act1"


def test_a_resnet_reads_the_activation_behind_its_sum() -> None:
    read_at = {layer.learnable: layer.name for layer in resolve_layers(resnet18(), None, torch.rand(2, 3, 32, 32))}
    assert read_at["layer1.0.conv1"] == "layer1.0.relu#0"
    assert read_at["layer1.0.conv2"] == "layer1.0.relu#1"
    assert read_at["layer2.0.conv2"] == "layer2.0.bn2"  # its shortcut's convolution comes before the sum


def scripted() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Linear(8, 8)), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_scripted_modules_are_passed_over_and_refused_by_name() -> None:
    model = scripted()
    assert resolve_layers(model, None, x_of(4)) == [Layer("2", "1")]
    with pytest.raises(ValueError, match=r"got \['0'\], which did not run"):
        resolve_layers(model, ["0"], x_of(4))
    assert not any(module._forward_hooks for module in model.modules())


def test_compiled_submodules_are_analysed_before_and_after_they_ran() -> None:
    child = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    model = nn.Sequential(torch.compile(child, backend="aot_eager", fullgraph=True), nn.Linear(8, 4)).eval()
    batch = x_of(16), torch.arange(16) % 4
    expected = LayerSustainabilityAnalysis(nn.Sequential(child, model[1])).run([batch], FGSM(0.1))
    fresh = LayerSustainabilityAnalysis(model).run([batch], FGSM(0.1))
    with torch.no_grad():
        model(batch[0])
    used = LayerSustainabilityAnalysis(model).run([batch], FGSM(0.1))
    for report in (fresh, used):
        assert [name.replace("_orig_mod.", "") for name in report.layers] == expected.layers
        torch.testing.assert_close(report.mean, expected.mean)


def test_call_sites_say_which_learnable_layer_a_call_follows() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.act = nn.Linear(8, 8), nn.Linear(8, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc2(self.act(self.act(self.fc1(x)))))

    assert call_sites(Shared(), x_of(2)) == {
        "fc1": CallSite("fc1", None, 0),
        "act#0": CallSite("act", "fc1", 0),
        "act#1": CallSite("act", "fc1", 1),
        "fc2": CallSite("fc2", None, 0),
        "act#2": CallSite("act", "fc2", 0),
    }


def test_an_expert_without_a_sample_is_no_layer_of_the_samples() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.idle, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.stem(x))
            return self.head(h + self.idle(h[:0]).sum())

    assert [layer.name for layer in resolve_layers(Experts(), None, torch.rand(8, 2))] == ["stem"]
    with pytest.raises(ValueError, match=r"one representation per sample.*idle \(0, 4\)"):
        resolve_layers(Experts(), ["idle"], torch.rand(8, 2))


class ExpertsInTurn(nn.Module):
    """Each of two experts is given every other sample, of any even number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)
        self.even, self.odd = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.stem(x))
        mixed = torch.empty_like(hidden)
        mixed[::2], mixed[1::2] = self.even(hidden[::2]), self.odd(hidden[1::2])
        return self.head(mixed)


@pytest.mark.parametrize("samples", [4, 8, 64])
def test_an_expert_with_half_of_the_samples_is_no_layer_of_the_samples(samples: int) -> None:
    model, x = ExpertsInTurn(), torch.rand(samples, 2)
    assert names(model, None, x) == ["act"]
    with pytest.raises(ValueError, match=r"one representation per sample.*even"):
        names(model, ["even"], x)


def names(model: nn.Module, spec: LayerSpec, x: Tensor) -> list[str]:
    return [layer.name for layer in resolve_layers(model, spec, x)]


class SortedByExpert(nn.Module):
    """One token a sample, and the tokens of an expert one after the other, as a mixture of experts keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act1, self.gate = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
        self.shared, self.act2, self.head = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act1(self.fc1(x))
        order = self.gate(hidden).argmax(1).argsort(stable=True)
        mixed = self.act2(self.shared(hidden[order]))
        return self.head(torch.empty_like(mixed).index_copy(0, order, mixed))


@pytest.mark.parametrize("seed", range(5))
def test_samples_in_an_order_of_the_layers_own_are_no_rows_of_the_batch(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = SortedByExpert(), 3 * torch.randn(16, 6)
    model.gate.weight.data.mul_(5)
    assert names(model, None, x) == ["act1", "gate"]
    with pytest.raises(ValueError, match=r"one representation per sample; .*act2 \(16, 8\)"):
        names(model, ["act1", "act2"], x)


class Masked(nn.Module):
    """A transformer with a padding mask; torch fuses its layers where none of them has a hook."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder = nn.Linear(2, 8), nn.TransformerEncoder(block, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x.view(len(x), 3, 2))
        mask = torch.zeros(embedded.shape[:2], dtype=torch.bool)
        mask[:, 2] = True
        return self.head(self.encoder(embedded, src_key_padding_mask=mask)[:, 0])


def test_a_transformer_with_padding_is_read_as_it_trains() -> None:
    torch.manual_seed(0)
    model, x = Masked(), torch.rand(16, 6)
    report = LayerSustainabilityAnalysis(model).run([(x, torch.zeros(16).long())], lambda _, x, __: x + 0.1)
    assert "encoder.layers.1.linear2" in report.learnable
    whole = LayerSustainabilityAnalysis(model, layers=["encoder"])
    error = float(whole.run([(x, torch.zeros(16).long())], lambda _, x, __: x + 0.1).mean)
    model.eval().requires_grad_(True)  # under gradients torch fuses nothing
    seen: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    model(x), model(x + 0.1)
    clean, moved = (each.flatten(1) for each in seen)
    assert error == pytest.approx(float(((clean - moved).norm(dim=1) / clean.norm(dim=1)).mean()), rel=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


class ComplexLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(6, 8), nn.ReLU()
        self.waves = nn.Linear(8, 8, dtype=torch.complex64)
        self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc2(self.waves(self.act(self.fc1(x)).to(torch.complex64)).abs()))


def test_what_cannot_be_compared_is_passed_over_and_refused_by_its_type() -> None:
    model, batches = ComplexLayer(), [(torch.rand(8, 6), torch.zeros(8).long())]
    assert LayerSustainabilityAnalysis(model).run(batches, lambda _, x, __: x + 0.1).layers == ["act", "fc2"]
    with pytest.raises(ValueError, match=r"layer waves to return a floating tensor.*got torch\.complex64"):
        LayerSustainabilityAnalysis(model, layers=["waves"]).run(batches, lambda _, x, __: x + 0.1)


def test_a_scripted_model_says_why_nothing_is_left() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(ValueError, match="these modules ran: none that takes hooks, as scripted ones take none"):
        names(model, None, torch.rand(4, 6))


class Conditioned(nn.Module):
    """A second input per sample, which a layer sees alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(6, 8), nn.ReLU()
        self.context, self.context_act, self.head = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x)) + self.context_act(self.context(c)))


@pytest.mark.parametrize("samples", [8, 64])
def test_a_layer_that_sees_what_is_given_beside_x_alone_is_one_of_the_samples(samples: int) -> None:
    torch.manual_seed(0)
    x, c = torch.rand(samples, 6), torch.rand(samples, 4)
    call = ModelCall((x, c), {}, x)
    assert names(bound(Conditioned(), call.arguments), None, x) == ["act", "context_act"]


class NoisyWindows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.windows, self.act, self.head = nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = (x + 0.002 * torch.randn_like(x)).view(-1, 2)
        return self.head(self.act(self.windows(windows))).view(len(x), -1, 3).mean(1)


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_many_rows_of_a_sample_is_no_other_order(seed: int) -> None:
    torch.manual_seed(seed)
    assert names(NoisyWindows(), None, torch.rand(16, 392)) == ["act"]
