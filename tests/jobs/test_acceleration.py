"""Compiled models and other memory formats train to the same weights."""

from typing import Any

import pytest
import torch
from tests.helpers.hydra_run import train_tiny
from torch import nn
from torch._dynamo.utils import counters

from lsa_lightning.jobs.acceleration import accelerate
from lsa_lightning.models import CNN


def test_a_compiled_model_is_the_same_module_and_takes_the_options() -> None:
    compiled: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    x, names = torch.rand(4, 2), list(model.state_dict())
    expected = model(x)
    accelerate(model, compiled={"backend": backend})
    assert torch.equal(model(x), expected)
    assert len(compiled) == 1
    assert list(model.state_dict()) == names


def test_every_job_of_a_process_is_compiled() -> None:
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for _ in range(3):  # torch alone would compile 8 of these 12
        model, before = CNN(), len(graphs)
        accelerate(model, compiled={"backend": backend, "dynamic": False})
        for samples in range(1, 5):
            model(torch.rand(samples, 1, 28, 28))
        assert len(graphs) == before + 4


def test_channels_last_goes_through_the_network() -> None:
    model, x = CNN().eval(), torch.rand(4, 1, 28, 28)
    expected = model(x)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda module, args, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    accelerate(model, channels_last=True)
    torch.testing.assert_close(model(x), expected)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(("compiled", "channels_last"), [("yes", False), (1, False), (False, "yes")])
def test_other_kinds_are_refused(compiled: Any, channels_last: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        accelerate(nn.Linear(2, 2), compiled=compiled, channels_last=channels_last)


@pytest.mark.parametrize("callbacks", ["at", "at_lr"])
def test_a_compiled_run_trains_the_same_weights(callbacks: str, tmp_path: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    weights = []
    for name, options in {"plain": (), "compiled": ("compile={backend:eager}",)}.items():
        train_tiny(tmp_path / name, f"callbacks={callbacks}", *options)
        checkpoint = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(checkpoint["state_dict"])
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name])
