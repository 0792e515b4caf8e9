"""The same call in passes that differ, and gradients that checkpoints hide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.layers.resolve import call_sites


class Branching(nn.Module):
    """One ReLU for all; in training an auxiliary head runs first, and ``skip`` leaves a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.aux, self.fc2, self.fc3 = (
            nn.Linear(8, 16),
            nn.Linear(16, 5),
            nn.Linear(16, 16),
            nn.Linear(16, 12),
        )
        self.relu, self.head = nn.ReLU(), nn.Linear(12, 4)
        self.skip = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.fc1(x))
        if self.training:
            self.relu(self.aux(hidden))
        if not (self.training and self.skip):
            hidden = self.relu(self.fc2(hidden))
        return self.head(self.relu(self.fc3(hidden)))


X = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
LAYERS = ["relu#0", "relu#1", "relu#2"]


def test_calls_are_found_again_where_training_runs_others() -> None:
    model = Branching().train()
    with LayerProbe(model, LAYERS, sites=call_sites(model, X)) as probe:
        model(X)
    first = model.relu(model.fc1(X))
    second = model.relu(model.fc2(first))
    for layer, expected in zip(LAYERS, (first, second, model.relu(model.fc3(second))), strict=True):
        torch.testing.assert_close(probe.representations[layer], expected)


def test_a_skipped_layer_is_not_mistaken_for_the_next_one() -> None:
    model = Branching().train()
    model.skip = True
    with LayerProbe(model, LAYERS, sites=call_sites(model, X)) as probe:
        model(X)
    assert {name: tensor.shape[1] for name, tensor in probe.captured.items()} == {"relu#0": 16, "relu#2": 12}
    with pytest.raises(ValueError, match=r"no output of \['relu#1'\]"):
        _ = probe.representations


def test_a_second_pass_does_not_fill_in_what_the_first_skipped() -> None:
    model = Branching().train()
    with LayerProbe(model, LAYERS, sites=call_sites(model, X)) as probe:
        model.skip = True
        model(X)
        model.skip = False
        model(X)
    assert list(probe.captured) == ["relu#0", "relu#2"]


def test_whether_anything_ran() -> None:
    model = Branching()
    with LayerProbe(model, ["fc1"]) as probe:
        pass
    assert not probe.ran
    with LayerProbe(model, ["fc1"]) as probe:
        model.fc1(X)
    assert probe.ran


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.reentrant is None:
            return self.head(self.block(x))
        return self.head(checkpoint.checkpoint(self.block, x, use_reentrant=self.reentrant))


def gradients(reentrant: bool | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = Checkpointed(reentrant)
    with LayerProbe(model, ["block.1"], needs_gradient=True) as probe:
        loss = model(X).sum()
    (loss + probe.representations["block.1"].square().sum()).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_reach_layers_inside_checkpoints_of_both_kinds(reentrant: bool) -> None:
    for mine, expected in zip(gradients(reentrant), gradients(None), strict=True):
        torch.testing.assert_close(mine, expected)
    assert checkpoint.CheckpointFunction.__module__ == "torch.utils.checkpoint"


class WithoutGradient(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self[1](self[0](x))
        return self[2](x)


def without_gradient() -> nn.Module:
    return WithoutGradient(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def test_a_layer_without_gradients_is_named_where_they_are_needed() -> None:
    model = without_gradient()
    with LayerProbe(model, ["1", "2"], needs_gradient=True) as probe:
        model(X)
    with pytest.raises(ValueError, match=r"expected layers that run where gradients are on, got \['1'\]"):
        _ = probe.captured
    with LayerProbe(model, ["1", "2"]) as probe:
        model(X)
    assert list(probe.representations) == ["1", "2"]


def test_a_pass_without_gradients_before_the_real_one_is_passed_over() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with LayerProbe(model, ["1"], needs_gradient=True) as probe:
        with torch.no_grad():
            model(torch.zeros_like(X))
        model(X)
    torch.testing.assert_close(probe.representations["1"], model[1](model[0](X)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_a_scripted_layer_is_refused_and_no_hook_stays() -> None:
    model = nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.ReLU()), nn.Linear(8, 4))
    with (
        pytest.raises(ValueError, match=r"expected layers that take hooks, got \['1'\]"),
        LayerProbe(model, ["0", "1"]),
    ):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
