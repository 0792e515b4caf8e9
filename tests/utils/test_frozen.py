"""Frozen parameters: given back, nothing kept for their gradients, and models that need them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.utils.isolation import frozen

X, Y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)
        )
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
        nn.init.normal_(net[1].weight)
    return net.eval()


def kept(net: nn.Module) -> int:
    """Numbers that a graph keeps, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers(), X]}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(X.clone().requires_grad_())
    del output
    return sum(size for pointer, size in seen.items() if pointer not in own)


def test_nothing_is_kept_for_the_weights() -> None:
    net = network()
    feature_map, slopes, whole = 4 * 8 * 64 * 4, 8 * 4, kept(net)
    with frozen(net):
        assert whole - kept(net) == feature_map - slopes  # what the batch norm is given
    assert kept(net) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_frozen_batch_norm_has_the_same_values_and_gradients(dtype: torch.dtype) -> None:
    net, x = network().to(dtype), X.to(dtype).requires_grad_()
    expected = net(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    with frozen(net):
        got = net(x)
        (slope,) = torch.autograd.grad(got.sum(), x)
    assert torch.equal(got, expected)
    rounding = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(slope, gradient, rtol=rounding, atol=rounding * float(gradient.detach().abs().max()))


def test_flags_come_back_after_an_exception_and_what_was_frozen_stays_so() -> None:
    net = network()
    net[4].weight = nn.Parameter(net[4].weight.detach(), requires_grad=False)
    net.register_parameter("tied", net[0].weight)
    before = [parameter.requires_grad for parameter in net.parameters()]

    def fail() -> None:
        assert not any(parameter.requires_grad for parameter in net.parameters())
        raise KeyError

    with pytest.raises(KeyError), frozen(net), frozen(net), frozen(abs):
        fail()
    assert (
        [parameter.requires_grad for parameter in net.parameters()] == before == [True, True, True, True, False, True]
    )
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_graph_that_waits_for_its_backward_pass_still_reaches_the_parameters() -> None:
    net = network()
    loss = net(X).square().sum()
    with frozen(net):
        net(X)
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


class AdaptsItself(nn.Module):
    """Takes a gradient of its own weights in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        entropy = self.head(self.norm(x)).softmax(1).square().sum()
        gradients = torch.autograd.grad(entropy, [self.head.weight, self.norm.weight], create_graph=True)
        return nn.functional.linear(self.norm(x), self.head.weight - 0.1 * gradients[0], self.head.bias)


def test_a_model_whose_forward_pass_needs_gradients_of_its_parameters_gets_them() -> None:
    net, x = AdaptsItself(), torch.rand(4, 6)
    x_adv = FGSM(0.1)(net, x, Y)
    assert (x_adv - x).abs().max() > 0.09
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["wrapper", "in place"])
def test_a_compiled_model_is_compiled_once_for_the_attack_and_once_for_training(compiled: str) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net: Any = network()
    if compiled == "wrapper":
        net = torch.compile(net, backend=backend)
    else:
        net.compile(backend=backend)
    counts = []
    for _ in range(3):
        net.train()
        x_adv = PGD(0.1, steps=2)(net, X, Y)
        nn.functional.cross_entropy(net(x_adv), Y).backward()
        counts.append(len(graphs))
    assert counts == [2, 2, 2]
