"""Stacked copies of a network: one module of the same structure, whose batches hold the samples of all copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lsa_lightning.utils.batch import samples_of_batch

_MIXING = (nn.modules.batchnorm._BatchNorm,)
"""Layers that look at several samples at once, whether or not they have parameters."""


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """One module that computes what all ``models``, of one structure, do.

    It takes ``[S N, ...]``, the N samples of the first of S models, then those of the second, and so on. Its submodules
    have the names and types of a single model's, so that hooks find them; each parameter and buffer is ``[S, ...]``. A
    linear layer is one batched matrix product, which rounds as the single ones do; any other layer with parameters runs
    once for each model. What has no parameters must treat each sample alone. Inside of
    :func:`~lsa_lightning.utils.batch.part_of_batch` it takes the rows named there.

    Args:
        models: at least one; they are left as they are.

    Raises:
        ValueError: if the structures differ, or a module has parameters beside submodules or shares them.

    Example:
        >>> nets = [nn.Sequential(nn.Linear(2, 3), nn.ReLU()) for _ in range(4)]
        >>> x = torch.randn(4, 5, 2)
        >>> expected = torch.stack([net(rows) for net, rows in zip(nets, x)])
        >>> bool((stack(nets)(x.flatten(0, 1)).view(4, 5, 3) == expected).all())
        True
    """
    check_stackable(models[0])
    stacked = copy.deepcopy(models[0])
    for name, module in list(stacked.named_modules()):
        if _is_layer(module):
            _stack_layer(module, [model.get_submodule(name) for model in models])
    stacked.forward = partial(_forward, partial(type(stacked).forward, stacked), len(models))
    return stacked


def check_stackable(model: nn.Module) -> None:
    """Raise a ValueError that names the first module of ``model`` of which copies cannot be stacked."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            msg = f"expected a model without random numbers of its own, got the dropout {name}"
            raise ValueError(msg)
        own = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
        if own and next(module.children(), None) is not None:
            msg = f"expected parameters and buffers in modules without submodules, got some in {name or 'the model'}"
            raise ValueError(msg)
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) or any(id(tensor) in seen for tensor in own):
            msg = f"expected each layer to have parameters of its own, got shared or lazy ones in {name}"
            raise ValueError(msg)
        seen.update(map(id, own))


def load(stacked: nn.Module, index: int, into: nn.Module) -> None:
    """Put the weights and buffers of copy number ``index`` into the single model ``into``."""
    into.load_state_dict({name: tensor[index] for name, tensor in stacked.state_dict().items()})


def split(tensor: Tensor, models: int) -> tuple[Tensor, ...]:
    """``[S N, ...]`` as S tensors ``[N, ...]``."""
    return by_model(tensor, models).unbind(0)


def by_model(tensor: Tensor, models: int) -> Tensor:
    """``[S N, ...]`` as ``[S, N, ...]``."""
    return tensor.reshape(models, len(tensor) // models, *tensor.shape[1:])


def _is_layer(module: nn.Module) -> bool:
    own = (*module._parameters.values(), *module._buffers.values())
    return isinstance(module, _MIXING) or any(tensor is not None for tensor in own)


def _stack_layer(module: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Give ``module`` the parameters and buffers of all ``parts``, and a forward for them."""
    single = copy.deepcopy(module)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            together = torch.stack([part._parameters[name].detach() for part in parts])  # type: ignore[union-attr]
            module._parameters[name] = nn.Parameter(together, requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = torch.stack([part._buffers[name] for part in parts])  # type: ignore[misc]
    module.forward = partial(_linear, module) if type(module) is nn.Linear else partial(_one_by_one, module, single)


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    models = len(module.weight)
    rows = x.reshape(models, -1, x.shape[-1])
    bias = x.new_zeros(models, module.out_features) if module.bias is None else module.bias
    outputs: Tensor = _Linear.apply(rows, module.weight, bias)
    return outputs.view(*x.shape[:-1], module.out_features)


class _Linear(torch.autograd.Function):
    """``x W^T + b`` of each model, by the products that ``F.linear`` makes forward and back, in the same order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if _rounds_alike(x, weight.transpose(1, 2)):
            return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        outputs = x.new_empty(*x.shape[:2], weight.shape[1])
        for rows, w, b, out in zip(x, weight, bias, outputs, strict=True):
            torch.addmm(b, rows, w.t(), out=out)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _products(gradient, weight) if for_x else None,
            _products(gradient.transpose(1, 2), x) if for_weight else None,
            gradient.sum(1) if for_bias else None,
        )


_FEWEST = 400
"""Multiplications; for less, torch's batched product on the CPU has a loop of its own."""


def _rounds_alike(left: Tensor, right: Tensor) -> bool:
    """Whether one batched product of all models rounds as the products of each: not of few numbers, nor of vectors."""
    rows, inner, columns = *left.shape[1:], right.shape[2]
    return min(rows, columns) > 1 and rows * inner * columns >= _FEWEST


def _products(left: Tensor, right: Tensor) -> Tensor:
    """``[S, a, b] @ [S, b, c]``, each rounded as alone."""
    if _rounds_alike(left, right):
        return torch.bmm(left, right)
    return torch.stack([one @ other for one, other in zip(left, right, strict=True)])


def _one_by_one(module: nn.Module, single: nn.Module, x: Tensor) -> Tensor:
    """Each model's layer on its own rows."""
    tensors = {**module._parameters, **module._buffers}
    own = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    models = len(next(iter(own.values())))
    single.training = module.training
    outputs = [
        functional_call(single, {name: tensor[index] for name, tensor in own.items()}, (rows,))
        for index, rows in enumerate(split(x, models))
    ]
    return outputs[0] if models == 1 else torch.cat(outputs)  # cat copies each output


def _forward(forward: Any, models: int, x: Tensor) -> Any:
    rows = samples_of_batch()
    if rows is None:
        return forward(x)
    return _of_rows(forward, models, x, *rows)


def _of_rows(forward: Any, models: int, x: Tensor, rows: Tensor, samples: int) -> Tensor:
    """The outputs for some rows of a batch: each model's are filled up to as many as the largest share has."""
    model = rows // (samples // models)
    shares = torch.bincount(model, minlength=models)
    first = shares.cumsum(0) - shares
    largest = int(shares.max())
    place = model * largest + torch.arange(len(rows), device=rows.device) - first[model]
    filled = x.new_zeros(models * largest, *x.shape[1:]).index_copy(0, place, x)
    outputs: Tensor = forward(filled)
    return outputs[place]
