from __future__ import annotations

import gc
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.helpers.modules import ModularConvNet
from torch import Tensor, nn
from torchvision.models import resnet18

from lsa_lightning.layers.probe import OUTPUT, LayerProbe, check_names_exist
from lsa_lightning.layers.resolve import Layer, resolve_layers
from lsa_lightning.models import MLP


class Block(nn.Module):
    """Every case of the default rule: shared ReLU, sum before the activation, norm only, functional activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(4 * 16, 8)
        self.idle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.conv1(x))))
        out += self.shortcut(x)
        return self.head(F.relu(self.fc1(self.relu(out).flatten(1))))


X = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


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


def captured(model: nn.Module, layers: list[str], x: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    with LayerProbe(model, layers, **kwargs) as probe:
        model(x)
    return probe.representations


def test_captures_what_the_layers_computed_despite_in_place_activations_and_sums() -> None:
    model = Block().eval()
    found = captured(model, ["conv1", "relu#0", "bn2", "relu#1"], X)
    first = model.conv1(X)
    second = model.bn2(model.conv2(first.relu()))
    torch.testing.assert_close(found["conv1"], first)
    torch.testing.assert_close(found["relu#0"], first.relu())
    torch.testing.assert_close(found["bn2"], second)
    torch.testing.assert_close(found["relu#1"], (second + model.shortcut(X)).relu())


def test_gradients_flow_through_what_was_captured() -> None:
    net = ModularConvNet()
    captured(net, ["relu1"], torch.rand(2, 1, 8, 8))["relu1"].sum().backward()
    assert net.conv1.weight.grad is not None
    assert net.conv2.weight.grad is None


def test_the_output_of_the_model_itself() -> None:
    model = MLP()
    x = torch.randn(3, 2)
    torch.testing.assert_close(captured(model, [OUTPUT], x)[OUTPUT], model(x))


def test_stops_as_soon_as_all_layers_are_there() -> None:
    model = Block()
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, n=name: ran.append(n))
    found = captured(model, ["relu#0"], X, stop_early=True)
    assert list(found) == ["relu#0"]
    assert ran == ["conv1", "relu"]


def test_a_forward_that_catches_exceptions_is_stopped_too() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.fc(x)
            except Exception:
                return x

    assert list(captured(Catching(), ["fc"], torch.zeros(1, 2), stop_early=True)) == ["fc"]


def test_only_the_first_of_several_passes_counts() -> None:
    model = MLP()
    with LayerProbe(model, ["act1"]) as probe:
        model(torch.ones(1, 2))
        model(torch.zeros(1, 2))
    torch.testing.assert_close(probe.representations["act1"], captured(model, ["act1"], torch.ones(1, 2))["act1"])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (lambda x: (x, x + 1), 0.0),
        (lambda x: {"mask": x.bool(), "hidden": x + 2}, 2.0),
        (lambda x: (None, x + 3), 3.0),
    ],
)
def test_tuples_and_dicts_give_their_first_floating_tensor(output: Any, expected: float) -> None:
    class Composite(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output(x)

    model = nn.Sequential(Composite())
    assert captured(model, ["0"], torch.zeros(1))["0"].item() == expected


def test_a_layer_without_a_floating_tensor_is_refused() -> None:
    class Integers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.long()

    with pytest.raises(ValueError, match="expected layer 0 to return a floating tensor"):
        captured(nn.Sequential(Integers()), ["0"], torch.zeros(1))


def test_a_layer_that_never_ran_is_named() -> None:
    with pytest.raises(ValueError, match=r"no output of \['idle', 'relu#7'\]"):
        captured(Block(), ["conv1", "idle", "relu#7"], X)


def test_hooks_are_gone_after_exceptions_and_errors_pass_through() -> None:
    model = Block()
    with pytest.raises(RuntimeError, match=r"size of tensor|expected input"), LayerProbe(model, ["conv1", "head"]):
        model(torch.zeros(1, 7, 4, 4))
    with pytest.raises(ValueError, match="unknown"), LayerProbe(model, ["conv1", "conv9"]):
        pass
    assert not any(m._forward_hooks for m in model.modules())


def test_nothing_grows_over_a_thousand_uses_and_the_model_still_pickles() -> None:
    model = MLP(hidden=(4,))
    x = torch.zeros(1, 2)
    captured(model, ["act1"], x)
    gc.collect()
    tensors = sum(isinstance(o, Tensor) for o in gc.get_objects())
    for _ in range(1000):
        captured(model, ["act1"], x, stop_early=True)
    gc.collect()
    assert sum(isinstance(o, Tensor) for o in gc.get_objects()) <= tensors
    assert not any(m._forward_hooks for m in model.modules())
    assert len(pickle.dumps(model)) > 0


def test_names_are_checked_without_running() -> None:
    check_names_exist(Block(), ["relu#1", "idle"])
    with pytest.raises(ValueError, match=r"unknown \['relu2'\]"):
        check_names_exist(Block(), ["relu2"])
