from __future__ import annotations

import gc
import pickle
from typing import Any

import pytest
import torch
from tests.helpers.modules import ModularConvNet
from tests.helpers.residual_block import Block, X
from torch import Tensor, nn

from lsa_lightning.layers.outputs import OUTPUT
from lsa_lightning.layers.probe import LayerProbe, check_names_exist
from lsa_lightning.models import MLP


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
            except Exception:  # noqa: BLE001
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


@pytest.mark.parametrize("rows", [0, 3, 7])
def test_a_layer_that_is_given_a_part_of_the_batch_is_refused_by_name(rows: int) -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expert = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x.index_add(0, torch.arange(rows) % len(x), self.expert(torch.rand(rows, 2)))

    with pytest.raises(ValueError, match=rf"rows per sample, of 4 samples, got {{'expert': \({rows}, 2\)}}"):
        captured(Expert(), ["expert"], torch.rand(4, 2), samples=4)
