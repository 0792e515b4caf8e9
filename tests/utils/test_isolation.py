from __future__ import annotations

import pytest
import torch
from tests.helpers.attack_cases import Failing
from torch import Tensor, nn

from lsa_lightning.utils.isolation import RandomStateAtForward, evaluating, scratch_buffers

CPU = torch.device("cpu")


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def partly_frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), nn.Linear(4, 2))
    model[1][0].eval()
    return model


class OverridesTrain(nn.Linear):
    """Does more than set the flag in ``train``."""

    calls = 0

    def train(self, mode: bool = True) -> OverridesTrain:
        self.calls += 1
        return super().train(mode)


class TwoHeads(nn.Module):
    """Two modules that hold the very same buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.second.running_mean = self.first.running_mean

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def test_evaluating_gives_each_submodule_its_own_mode_back() -> None:
    model = partly_frozen()
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_evaluating_restores_after_an_exception() -> None:
    model = partly_frozen()
    before = modes(model)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before


def test_evaluating_leaves_an_eval_parent_with_training_children() -> None:
    model = partly_frozen()
    model.training = False
    before = modes(model)
    with evaluating(model):
        model.train()
    assert modes(model) == before


def test_evaluating_does_not_call_train() -> None:
    layer = OverridesTrain(2, 2)
    with evaluating(nn.Sequential(layer)):
        assert not layer.training
    assert layer.training
    assert layer.calls == 0


def test_evaluating_nests_and_takes_plain_functions() -> None:
    model = partly_frozen()
    before = modes(model)
    with evaluating(model), evaluating(model), evaluating(lambda x: x):
        assert not any(modes(model))
    assert modes(model) == before


def test_scratch_buffers_lets_batchnorm_use_batch_statistics_but_keeps_the_running_ones() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    x = torch.randn(8, 3) + 5
    buffers = {name: (id(b), b.clone(), b._version) for name, b in model.named_buffers()}
    with scratch_buffers(model):
        y = model(x)
        assert float(model[0].running_mean.abs().max()) > 0.1
        assert int(model[0].num_batches_tracked) == 1
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    for name, buffer in model.named_buffers():
        assert (id(buffer), buffer._version) == (buffers[name][0], buffers[name][2])
        torch.testing.assert_close(buffer, buffers[name][1])


def test_scratch_buffers_restores_after_an_exception() -> None:
    model = nn.BatchNorm1d(3)
    before = model.running_mean
    with pytest.raises(RuntimeError, match="failing on purpose"), scratch_buffers(model):
        nn.Sequential(model, Failing(nn.Identity(), fail_at=0))(torch.randn(4, 3))
    assert model.running_mean is before
    torch.testing.assert_close(model.running_mean, torch.zeros(3))


def test_scratch_buffers_gives_back_a_buffer_that_the_forward_pass_replaced() -> None:
    model = nn.BatchNorm1d(3)
    before = model.running_mean
    with scratch_buffers(model):
        model.running_mean = torch.ones(3)
    assert model.running_mean is before


def test_scratch_buffers_keeps_shared_buffers_shared() -> None:
    model = TwoHeads()
    original = model.first.running_mean
    with scratch_buffers(model):
        assert model.first.running_mean is model.second.running_mean
        assert model.first.running_mean is not original
        model(torch.randn(4, 3) + 2)
    assert model.first.running_mean is original
    assert model.second.running_mean is original
    torch.testing.assert_close(original, torch.zeros(3))


def test_scratch_buffers_passes_over_buffers_that_are_none() -> None:
    model = nn.BatchNorm1d(3, track_running_stats=False)
    with scratch_buffers(model):
        model(torch.randn(4, 3))
    assert model.running_mean is None


def test_scratch_buffers_does_not_invalidate_a_graph_that_awaits_backward() -> None:
    model = nn.BatchNorm1d(3).eval()
    loss = model(torch.randn(4, 3)).square().sum()  # saves the running statistics for backward
    model.train()
    with scratch_buffers(model):
        model(torch.randn(4, 3))
    loss.backward()
    assert model.weight.grad is not None


def test_scratch_buffers_lets_gradients_through_the_pass_inside() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with scratch_buffers(model):
        loss = model(torch.randn(4, 3)).square().sum()
    loss.backward()
    assert model[0].weight.grad is not None


def test_random_state_at_forward_draws_the_same_dropout_masks() -> None:
    model = nn.Sequential(nn.Linear(50, 50), nn.Dropout(0.5))
    x = torch.rand(4, 50)
    torch.rand(3)
    with RandomStateAtForward(model, CPU) as random_state:
        torch.rand(7)  # what user code draws before its forward pass
        first = model(x)
    with random_state.replay():
        second = model(x)
    assert torch.equal(first, second)
    assert not torch.equal(model(x), first)


def test_replay_leaves_the_random_state_as_it_was() -> None:
    model = nn.Dropout()
    with RandomStateAtForward(model, CPU) as random_state:
        model(torch.ones(4))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="failing on purpose"), random_state.replay():
        nn.Sequential(model, Failing(nn.Identity(), fail_at=0))(torch.ones(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_state_is_that_of_the_first_forward_pass_also_of_a_submodule() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    x = torch.ones(100)
    with RandomStateAtForward(model, CPU) as random_state:
        first = model[1](x)
        model(x)
    with random_state.replay():
        assert torch.equal(model[1](x), first)


def test_random_state_removes_its_hooks_after_an_exception() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(KeyError), RandomStateAtForward(model, CPU):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_replay_without_a_forward_pass_draws_on() -> None:
    with RandomStateAtForward(nn.Dropout(), CPU) as random_state:
        pass
    before = torch.get_rng_state()
    with random_state.replay():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
