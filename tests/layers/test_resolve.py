from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.residual_block import Block, X
from torch import Tensor, nn
from torchvision.models import resnet18

from lsa_lightning.layers.resolve import Layer, resolve_layers
from lsa_lightning.models import MLP


def test_learnable_layers_are_read_after_their_activation_else_norm_else_themselves() -> None:
    assert resolve_layers(Block(), None, X) == [
        Layer("relu#0", "conv1"),
        Layer("bn2", "conv2"),
        Layer("relu#1", "shortcut"),
        Layer("fc1", "fc1"),
    ]


def test_model_a_has_three_layers() -> None:
    layers = resolve_layers(MLP(), None, torch.zeros(1, 2))
    assert layers == [Layer("act1", "fc1"), Layer("act2", "fc2"), Layer("act3", "fc3")]


def test_shared_relus_of_a_residual_network_are_told_apart() -> None:
    names = [layer.name for layer in resolve_layers(resnet18(), None, torch.zeros(1, 3, 32, 32))]
    assert {"layer1.0.relu#0", "layer1.0.relu#1"} <= set(names)
    assert len(names) == len(set(names)) == 20


def test_multihead_attention_is_neither_activation_nor_learnable() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU(), batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2))
    names = [entry.learnable for entry in resolve_layers(model, None, torch.zeros(4, 3, 8))]
    assert names == ["0.linear1", "0.linear2"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (["fc1", "conv1"], ["conv1", "fc1"]),
        (["relu"], ["relu#0", "relu#1"]),
        (["relu#1"], ["relu#1"]),
        ("conv2", ["conv2"]),
        (nn.ReLU, ["relu#0", "relu#1"]),
        ([nn.BatchNorm2d, nn.Linear], ["bn2", "fc1", "head"]),
    ],
)
def test_users_choose_by_name_or_type_in_the_order_of_execution(spec: Any, names: list[str]) -> None:
    layers = resolve_layers(Block(), spec, X)
    assert [layer.name for layer in layers] == [layer.learnable for layer in layers] == names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["conv9"], r"got unknown \['conv9'\]; these exist: conv1, conv2, bn2, shortcut, relu, fc1, idle, head"),
        (["idle"], r"expected layers that run in the forward pass, got \['idle'\], which did not run"),
        (["relu#2"], r"got \['relu#2'\], which did not run"),
        (nn.Tanh, r"expected at least one layer of <class '.*Tanh'> to run"),
        ([], "expected at least one layer of"),
    ],
)
def test_names_that_mean_nothing_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_layers(Block(), spec, X)


def test_a_network_without_a_hidden_layer_says_what_ran() -> None:
    with pytest.raises(ValueError, match=r"learnable layer before the last one to run.*these modules ran: 0"):
        resolve_layers(nn.Sequential(nn.Linear(2, 2)), None, torch.zeros(1, 2))


def test_resolving_leaves_the_model_as_it_was() -> None:
    model = Block()
    model.bn2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    resolve_layers(model, None, X)
    assert model.training
    assert not model.bn2.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


class LateExpert(nn.Module):
    """Sends inputs whose first coordinate is positive to a layer that no other input reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.common = nn.Linear(3, 4), nn.ReLU()
        self.rare, self.act = nn.Linear(4, 4), nn.Tanh()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.common(self.first(x))
        if bool((x[:, 0] > 0).any()):
            hidden = self.act(self.rare(hidden))
        return self.head(hidden)


def test_a_layer_that_a_late_sample_reaches_is_found() -> None:
    x = -torch.rand(100, 3)
    assert [layer.name for layer in resolve_layers(LateExpert(), None, x)] == ["common"]
    x[70, 0] = 1.0
    assert [layer.name for layer in resolve_layers(LateExpert(), None, x)] == ["common", "act"]
