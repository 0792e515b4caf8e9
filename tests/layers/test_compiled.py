"""Compiled passes that return what layers output."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from tests.helpers.modules import ModularConvNet
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from lsa_lightning.layers import LayerProbe
from lsa_lightning.layers.compiled import CompiledProbe, compile_in_place


class Counting:
    """A backend that counts the convolutions of each forward graph, as what is not needed has left it."""

    def __init__(self) -> None:
        self.convolutions: list[int] = []
        self.backend = aot_autograd(
            fw_compiler=self._count, bw_compiler=lambda graph, _: make_boxed_func(graph.forward)
        )

    def _count(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.convolutions.append(sum("convolution" in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)


class Shares(nn.Module):
    """One activation after each of two layers, and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.relu(self.fc2(self.relu(self.fc1(x))))
        return output


class Checkpointed(Shares):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc1(checkpoint(super().forward, x, use_reentrant=self.reentrant))
        return output


class Untraceable(ModularConvNet):
    """Its path depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


class Counts(nn.Module):
    """Writes a buffer of its own in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.passes = nn.ReLU(), nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        output: Tensor = self.relu(x)
        return output


def taught(model: nn.Module, layers: list[str], x: Tensor, *, times: int = 1, backend: Any = "eager") -> CompiledProbe:
    """A probe of the compiled ``model`` that has seen one pass."""
    torch._dynamo.reset()
    counters.clear()
    compile_in_place(model, {"backend": backend})
    compiled = CompiledProbe.of(model)
    assert compiled is not None
    teach(compiled, layers, x, times=times)
    return compiled


def teach(compiled: CompiledProbe, layers: list[str], x: Tensor, *, times: int = 1) -> None:
    with compiled.watching(x.device), LayerProbe(compiled.model, layers, needs_gradient=True) as probe:
        for _ in range(times):
            compiled.model(x.clone())
    compiled.learn(probe)


def expected(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    with LayerProbe(model, layers) as probe:
        model(x.clone())
    return probe.representations


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for layer, value in wanted.items():
        torch.testing.assert_close(found[layer], value, rtol=0, atol=0)


def test_the_pass_alone_ends_at_the_deepest_layer_and_moves_no_buffer() -> None:
    counting, x = Counting(), torch.rand(4, 1, 8, 8)
    model = ModularConvNet()
    compiled = taught(model, ["conv1", "bn1"], x, backend=counting.backend)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = compiled.alone(x)
    sum(value.square().sum() for value in found.values()).backward()  # type: ignore[union-attr]
    gradient = model.conv1.weight.grad
    assert counting.convolutions == [1]
    assert counters["stats"]["unique_graphs"] == 1
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    wanted = expected(model, ["conv1", "bn1"], x)  # of batch norm before the ReLU behind it overwrites that
    assert_equal(found, wanted)
    model.zero_grad()
    sum(value.square().sum() for value in wanted.values()).backward()  # type: ignore[union-attr]
    assert torch.equal(gradient, model.conv1.weight.grad)  # type: ignore[arg-type]


def test_the_models_own_pass_gives_output_and_representations_and_moves_buffers() -> None:
    x = torch.rand(4, 1, 8, 8)
    model, other = ModularConvNet(), ModularConvNet()
    compiled = taught(model, ["relu1", "act"], x)
    other.load_state_dict(model.state_dict())
    wanted = expected(other, ["relu1", "act"], x)
    own = model._compiled_call_impl
    with compiled.within_step() as captured:
        with torch.no_grad():  # a teacher's
            model.eval()(x)
            model.train()
        assert not captured
        output = model(x)
        model(2 * x)
    assert model._compiled_call_impl is own
    assert_equal(captured, wanted)
    other(2 * x)
    assert torch.equal(output, model.fc2(wanted["act"]))
    assert torch.equal(model.bn1.running_mean, other.bn1.running_mean)  # type: ignore[arg-type]


def test_a_call_is_found_by_its_number() -> None:
    model, x = Shares(), torch.randn(3, 4)
    compiled = taught(model, ["fc1", "relu#1"], x)
    wanted = expected(model, ["fc1", "relu#1"], x)
    assert_equal(compiled.alone(x), wanted)
    assert not torch.equal(wanted["fc1"], model.relu(wanted["fc1"].clone()))


def test_layers_that_come_and_go_are_compiled_once() -> None:
    x = torch.rand(4, 1, 8, 8)
    model = ModularConvNet()
    compiled = taught(model, ["relu1"], x)
    assert not compiled.covers(["relu1", "act"])
    graphs = []
    for layers in (["relu1"], ["act"], ["relu1", "act"], ["relu1"], ["act"]):
        if not compiled.covers(layers):
            teach(compiled, layers, x)
        compiled.alone(x)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("model", "layers", "times", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout()), ["0"], 1, "random"),
        (nn.Sequential(nn.Linear(4, 4), Counts()), ["0"], 1, "it writes 1."),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ["0", ""], 1, "its own output"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ["0"], 2, "2 times"),
        (Checkpointed(reentrant=False), ["fc1"], 1, "checkpointed"),
        (Checkpointed(reentrant=True), ["fc1"], 1, "checkpointed"),
    ],
    ids=["draws", "writes", "output", "twice", "checkpointed", "reentrantly"],
)
def test_what_forbids_it_is_said_once(
    model: nn.Module, layers: list[str], times: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(3, 4)
    with caplog.at_level(logging.INFO):
        compiled = taught(model, layers, x, times=times)
        teach(compiled, layers, x, times=times)
    assert compiled.forbidden
    assert not compiled.covers(layers)
    assert [reason in record.message for record in caplog.records if "uncompiled" in record.message] == [True]


def test_what_cannot_be_traced_runs_as_it_was_written(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.rand(4, 1, 8, 8)
    model = Untraceable()
    compiled = taught(model, ["relu1", "act"], x)
    wanted = expected(model, ["relu1", "act"], x)
    mean = model.bn1.running_mean.clone()  # type: ignore[union-attr]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert_equal(compiled.alone(x), wanted)
    assert torch.equal(model.bn1.running_mean, mean)  # type: ignore[arg-type]
    assert not compiled.covers(["relu1"])
    assert sum("uncompiled" in record.message for record in caplog.records) == 1


def test_a_pass_that_failed_leaves_nothing_behind() -> None:
    x = torch.rand(4, 1, 8, 8)
    model = ModularConvNet()
    compiled = taught(model, ["relu1"], x)
    model.fc2, fc2 = nn.Linear(1, 1), model.fc2
    with torch.compiler.set_stance("force_eager"):
        with pytest.raises(RuntimeError, match="shape"):
            compiled.alone(-x)
        model.fc2 = fc2
        assert_equal(compiled.alone(x), expected(model, ["relu1"], x))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.bn1.track_running_stats


def test_only_models_that_were_compiled_here_have_one() -> None:
    model = nn.Linear(2, 2)
    model.compile(backend="eager")
    assert CompiledProbe.of(model) is None
    assert CompiledProbe.of(nn.Linear(2, 2)) is None
