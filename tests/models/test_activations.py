"""Model A's ELU is torch's, up to rounding, in every mode that it may run in."""

import pytest
import torch
from torch import nn

from lsa_lightning.models.activations import ELU

EXTREME = torch.tensor([-torch.inf, -200.0, -1.0, -1e-4, -3e-8, 0.0, 3e-8, 1e-4, 1.0, 200.0, torch.inf])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_torch(dtype: torch.dtype) -> None:
    results = []
    for layer in (ELU(), nn.ELU()):
        x = EXTREME.to(dtype).requires_grad_()
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert y.dtype is dtype
        results.append((y, gradient))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1.5e-7)


def test_what_is_not_a_number_stays_so() -> None:
    assert ELU()(torch.tensor([torch.nan])).isnan().all()


def test_second_derivatives_and_vectorised_gradients() -> None:
    x = torch.tensor([-1.0, 0.5])
    second = torch.autograd.functional.hessian(lambda x: ELU()(x).sum(), x).diagonal()
    torch.testing.assert_close(second, torch.tensor([-1.0, 0.0]).exp() * torch.tensor([1.0, 0.0]))
    each = torch.func.vmap(torch.func.grad(ELU()))(x)
    torch.testing.assert_close(each, torch.tensor([-1.0, 0.0]).exp())


def test_a_compiled_model_runs_torchs_own() -> None:
    compiled = torch.compile(ELU(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(EXTREME), nn.ELU()(EXTREME))
