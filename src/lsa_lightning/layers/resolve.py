"""Which layers a network has, in the order in which they run, and where each is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from lsa_lightning.layers.probe import LayerProbe, _first_floating, _remove, check_names_exist
from lsa_lightning.utils.isolation import evaluating, scratch_buffers

LayerSpec: TypeAlias = Sequence[str] | type[nn.Module] | Sequence[type[nn.Module]] | None
"""None (learnable layers after their activation), layer names, or module types."""


_LEARNABLE = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)


_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


_NOT_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)


class Layer(NamedTuple):
    """A place where a representation is read."""

    name: str
    """The module whose output is read; ``name#k`` is the k-th call of one that runs several times in a forward pass."""
    learnable: str
    """The learnable layer that this representation stands for; ``name`` itself where the user chose the layers."""


class _Call(NamedTuple):
    name: str
    module: nn.Module
    rows: int | None
    """Length of the first dimension of the output; None where there is no floating tensor."""


def resolve_layers(model: nn.Module, spec: LayerSpec, x: Tensor) -> list[Layer]:
    """The layers that ``spec`` means, in the order in which ``model`` runs them on ``x``.

    By default (``spec=None``) these are the convolution and linear layers, the last one (the classifier) left out, each
    read at the first activation module that runs after it and before the next learnable layer; else at its norm layer;
    else at its own output. Functional activations such as ``F.relu`` cannot be seen by hooks.

    A representation belongs to a sample. Inside the windows of a Swin transformer, say, a linear layer returns
    ``[N * windows, ...]``: such a layer is taken if the first sample alone gives the first rows, else it is left out,
    as is one that never sees a sample, such as an MLP on relative positions.

    Args:
        model: any module; it runs in eval mode and without gradients, and is left as it was.
        spec: None, module names (``"layer1.0.relu"`` means all its calls, ``"layer1.0.relu#1"`` one of them), or module
            types, whose every call is read.
        x: an input batch.

    Returns:
        One :class:`Layer` per representation, in the order of execution.

    Raises:
        ValueError: if a name does not exist (the message lists those that do), names a module that did not run, the
            first dimension of a layer that the user chose is not the samples, or nothing is left to read.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Linear(4, 1))
        >>> resolve_layers(net, None, torch.zeros(1, 2))
        [Layer(name='1', learnable='0')]
    """
    calls = _trace(model, x)
    strange = _without_samples_first(model, calls, x)
    if spec is None:
        layers = [layer for layer in _after_activation(calls) if layer.name not in strange]
    elif types := _types(spec):
        layers = [Layer(call.name, call.name) for call in calls if isinstance(call.module, types)]
    else:
        layers = _named(model, calls, [str(name) for name in ([spec] if isinstance(spec, str | type) else spec)])
    if not layers:
        wanted = "learnable layer before the last one" if spec is None else f"layer of {spec}"
        ran = ", ".join(call.name for call in calls)
        msg = f"expected at least one {wanted} to run in the forward pass, got none; these modules ran: {ran}"
        raise ValueError(msg + _left_out(strange, len(x)))
    chosen = {layer.name: strange[layer.name] for layer in layers if layer.name in strange}
    if chosen:
        msg = f"expected layers that return one representation per sample{_left_out(chosen, len(x))}"
        raise ValueError(msg)
    return layers


def _left_out(strange: Mapping[str, tuple[int, ...]], samples: int) -> str:
    """The part of an error that names layers whose rows are not the samples."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in strange.items())
    return f"; the first dimension of these is not the batch, {samples}, sample by sample: {shapes}" if shapes else ""


def _types(spec: Any) -> tuple[type[nn.Module], ...]:
    entries = [spec] if isinstance(spec, str | type) else spec
    return tuple(entry for entry in entries if isinstance(entry, type))


def _trace(model: nn.Module, x: Tensor) -> list[_Call]:
    """The calls of all submodules in one forward pass, ordered by when they returned."""
    modules = {name: module for name, module in model.named_modules() if name}
    order: list[_Call] = []
    handles = [module.register_forward_hook(_appender(order, name)) for name, module in modules.items()]
    try:
        with evaluating(model), scratch_buffers(model), torch.no_grad():
            model(x.clone())
    finally:
        _remove(handles)
    times, seen = Counter(call.name for call in order), Counter[str]()
    calls = []
    for call in order:
        calls.append(call._replace(name=f"{call.name}#{seen[call.name]}") if times[call.name] > 1 else call)
        seen[call.name] += 1
    return calls


def _appender(order: list[_Call], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tensor = _first_floating(output)
        order.append(_Call(name, module, None if tensor is None or tensor.ndim == 0 else len(tensor)))

    return hook


def _without_samples_first(model: nn.Module, calls: Iterable[_Call], x: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape, by layer, of the outputs whose rows do not belong to the samples, one sample after the other.

    Outputs with as many rows as samples are taken at their word. For the others it is tried out: the first sample alone
    must give the first rows.
    """
    doubtful = [call.name for call in calls if call.rows not in (None, len(x))]
    if not doubtful:
        return {}
    with evaluating(model), scratch_buffers(model), torch.no_grad():
        whole, first = (_representations(model, doubtful, part) for part in (x, x[:1]))
    return {name: tuple(whole[name].shape) for name in doubtful if not _begins_with(whole[name], first[name], len(x))}


def _representations(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    with LayerProbe(model, layers, stop_early=True) as probe:
        model(x.clone())
    return probe.representations


def _begins_with(whole: Tensor, first: Tensor, samples: int) -> bool:
    if len(whole) != samples * len(first) or whole.shape[1:] != first.shape[1:]:
        return False
    difference = (whole[: len(first)] - first).float().norm()
    return bool(difference <= 1e-2 * first.float().norm())


def _after_activation(calls: Sequence[_Call]) -> list[Layer]:
    starts = [i for i, call in enumerate(calls) if isinstance(call.module, _LEARNABLE)]
    layers = []
    for start, end in pairwise(starts):  # the last learnable layer is the classifier
        following = calls[start + 1 : end]
        read_at = (
            next((c for c in following if _is_activation(c.module)), None)
            or next((c for c in following if _is_norm(c.module)), None)
            or calls[start]
        )
        layers.append(Layer(read_at.name, calls[start].name))
    return layers


def _is_activation(module: nn.Module) -> bool:
    # torch, timm and transformers each keep theirs in a module called activation(s).
    home = type(module).__module__.rpartition(".")[2]
    return home.startswith("activation") and not isinstance(module, _NOT_ACTIVATIONS)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or type(module).__name__ == "RMSNorm"


def _named(model: nn.Module, calls: Sequence[_Call], names: Sequence[str]) -> list[Layer]:
    check_names_exist(model, names)
    ran = {call.name for call in calls} | {call.name.partition("#")[0] for call in calls}
    silent = [name for name in names if name not in ran]
    if silent:
        msg = f"expected layers that run in the forward pass, got {silent}, which did not run"
        raise ValueError(msg)
    wanted = set(names)
    return [Layer(c.name, c.name) for c in calls if c.name in wanted or c.name.partition("#")[0] in wanted]
