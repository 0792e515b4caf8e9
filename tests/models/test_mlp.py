"""The multi-layer perceptron."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lsa_lightning.models import MLP


def test_the_defaults_are_model_a() -> None:
    layers = dict(MLP().named_children())
    assert list(layers) == ["fc1", "act1", "fc2", "act2", "fc3", "act3", "head"]
    sizes = [(m.in_features, m.out_features) for m in layers.values() if isinstance(m, nn.Linear)]
    assert sizes == [(2, 100), (100, 100), (100, 100), (100, 1)]
    assert all(isinstance(layers[f"act{i}"], nn.ELU) for i in (1, 2, 3))


def test_forward_is_the_chain_of_its_layers() -> None:
    net = MLP(in_features=3, hidden=[4, 5], out_features=2)
    x = torch.randn(6, 3)
    expected = net.head(torch.nn.functional.elu(net.fc2(torch.nn.functional.elu(net.fc1(x)))))
    torch.testing.assert_close(net(x), expected)
    assert expected.shape == (6, 2)


def test_images_are_flattened() -> None:
    net = MLP(in_features=12, hidden=[4])
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(net(x), net(x.flatten(1)))


def test_activations_are_modules_of_their_own() -> None:
    net = MLP(hidden=[3, 3], activation=nn.ReLU)
    assert isinstance(net.act1, nn.ReLU)
    assert net.act1 is not net.act2


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_features": 0},
        {"hidden": []},
        {"hidden": [3, 0]},
        {"hidden": "100"},
        {"hidden": 100},
        {"out_features": -1},
        {"out_features": 1.0},
        {"activation": nn.ReLU()(torch.zeros(1))},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"MLP: expected {next(iter(wrong))}.* to be .*, got "):
        MLP(**wrong)
