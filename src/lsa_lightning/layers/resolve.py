"""Which layers a network has, in the order in which they run, and where each is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lsa_lightning.layers.calls import LEARNABLE, NOT_TAKEN, CallOrder, CallSite
from lsa_lightning.layers.outputs import LOGITS, OUTPUT, PROBABILITIES, means_all_learnable, output_view
from lsa_lightning.layers.probe import LayerProbe, check_names_exist, fast_attention_off, first_floating, takes_hooks
from lsa_lightning.utils.checks import instance, refuse, sequence, text
from lsa_lightning.utils.isolation import lent

LayerSpec: TypeAlias = Sequence[str] | type[nn.Module] | Sequence[type[nn.Module]] | None
"""None (learnable layers after their activation), layer names, or module types; names and types may be mixed."""


_FEW = 16
"""Samples that show which layers run, and which of them are given a part of the batch."""

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
    site: CallSite
    shape: tuple[int, ...] | None
    """Shape of the output; None where there is no floating tensor with a first dimension."""
    marks: Tensor | None
    """A number for each row of the output, by which it is recognised."""
    sums: int
    """Number of sums of two branches, as at the end of a residual block, before it returned."""


def resolve_layers(model: nn.Module, spec: LayerSpec, x: Tensor) -> list[Layer]:
    """The layers that ``spec`` means, in the order in which ``model`` runs them on ``x``.

    By default (``spec=None``) these are the convolution and linear layers, the last one (the classifier) left out, each
    read at the first activation module that runs after it and before the next learnable layer; else at its norm layer;
    else at its own output. Functional activations such as ``F.relu`` cannot be seen by hooks. A norm layer behind the
    sum of a residual block belongs to what follows: the last layer of a transformer's block is read before the sum.

    A representation belongs to a sample, whatever the size of the batch: a layer is taken if its rows grow with the
    number of samples. Inside the windows of a Swin transformer, say, a linear layer returns ``[N * windows, ...]``:
    such a layer is taken if the first samples alone give the first rows, else it is left out, as is one that never sees
    a sample, such as an MLP on relative positions, and one that sees them in an order of its own, such as that of their
    lengths or experts. Scripted modules (torch.jit) take no hooks and are passed over.

    Args:
        model: any module; it runs in eval mode and without gradients, and is left as it was.
        spec: None, module names (``"layer1.0.relu"`` means all its calls, ``"layer1.0.relu#1"`` one of them), or module
            types, whose every call is read. ``"learnable"`` in a list stands for the layers of None, ``"logits"`` and
            ``"probabilities"`` for what the model returns.
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
    return locate_layers(model, spec, x)[0]


def checked_layers(owner: object, spec: Any) -> LayerSpec:
    """``spec``, if it is a :data:`LayerSpec` or a single name; what is meant is known only beside a model."""
    if isinstance(spec, str):
        return [text(owner, "layers", spec)]
    return spec if spec is None or _is_type(spec) else sequence(owner, "layers", spec, _name_or_type)


def _is_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _name_or_type(owner: object, name: str, value: Any) -> Any:
    return value if _is_type(value) else text(owner, name, value, also=" of a layer or a module type")


def locate_layers(model: nn.Module, spec: LayerSpec, x: Tensor) -> tuple[list[Layer], dict[str, CallSite]]:
    """:func:`resolve_layers`, and :func:`call_sites` of the same pass."""
    instance("resolve_layers", "model", model, nn.Module)
    if not isinstance(x, Tensor) or x.ndim == 0 or x.numel() == 0:
        refuse("resolve_layers", "x", "a batch [N, ...] of at least one sample", x)
    calls, x = _calls(model, x)
    strange = _without_samples_first(model, calls, x)
    readable = {call.name for call in calls if call.shape and call.name not in strange}
    learnable = [layer for layer in _after_activation(calls) if layer.name in readable]
    entries = [spec] if isinstance(spec, str | type) else spec
    layers = learnable if entries is None else _chosen(model, calls, entries, learnable)
    if not layers:
        wanted = "learnable layer before the last one" if spec is None else f"layer of {spec}"
        ran = ", ".join(call.name for call in calls) or "none that takes hooks, as scripted ones take none"
        msg = f"expected at least one {wanted} to run in the forward pass, got none; these modules ran: {ran}"
        raise ValueError(msg + _left_out(strange, len(x)))
    chosen = {layer.name: strange[layer.name] for layer in layers if layer.name in strange}
    if chosen:
        msg = f"expected layers that return one representation per sample{_left_out(chosen, len(x))}"
        raise ValueError(msg)
    outputs = {layer.name: CallSite(OUTPUT, None, 0) for layer in layers if output_view(model, layer.name)}
    return layers, {**{call.name: call.site for call in calls}, **outputs}


def call_sites(model: nn.Module, x: Tensor) -> dict[str, CallSite]:
    """Where each call of a submodule comes in a forward pass in eval mode, by the name that the call has as a layer.

    Args:
        model: any module; left as it was.
        x: an input batch.

    Returns:
        Call site by name, for :class:`~lsa_lightning.layers.probe.LayerProbe`.
    """
    return {call.name: call.site for call in _calls(model, x)[0]}


def _left_out(strange: Mapping[str, tuple[int, ...]], samples: int) -> str:
    """The part of an error that names layers whose rows are not the samples."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in strange.items())
    return f"; the first dimension of these is not the batch, {samples}, sample by sample: {shapes}" if shapes else ""


def _calls(model: nn.Module, x: Tensor) -> tuple[list[_Call], Tensor]:
    """The calls in a forward pass, and the samples of ``x`` that it ran on: a few, if they reach every module.

    An expert that none of them is sent to may be reached by another sample.
    """
    few = x[:_FEW]
    calls = _trace(model, few) if len(few) == len(x) else _trace_if_taken(model, few)
    if calls is None:
        return _trace(model, x), x
    ran = {call.module for call in calls}
    modules = [module for module in model.modules() if next(module.children(), None) is None and takes_hooks(module)]
    reached = len(few) == len(x) or ran.issuperset(modules)
    return (calls, few) if reached else (_trace(model, x), x)


def _trace(model: nn.Module, x: Tensor) -> list[_Call]:
    """The calls of all submodules in one forward pass, ordered by when they returned."""
    returned: list[_Call] = []
    order, sums = CallOrder(), _CountedSums()

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_floating(output)
            shape, marks = (None, None) if tensor is None or tensor.ndim == 0 else (tuple(tensor.shape), _marks(tensor))
            returned.append(_Call(name, module, order.note(name, module), shape, marks, sums.count))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and takes_hooks(module):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(fast_attention_off())
        with lent(model, x.device), torch.no_grad(), sums:
            model(x.clone())
    return _numbered(returned)


def _trace_if_taken(model: nn.Module, x: Tensor) -> list[_Call] | None:
    """The same; None where the model takes the given batch alone."""
    try:
        return _trace(model, x)
    except torch.cuda.OutOfMemoryError:
        raise
    except NOT_TAKEN:
        return None


def _numbered(returned: Sequence[_Call]) -> list[_Call]:
    """The calls, with ``#k`` behind the names of modules that ran several times."""
    times, seen = Counter(call.name for call in returned), Counter[str]()
    calls = []
    for call in returned:
        calls.append(call._replace(name=f"{call.name}#{seen[call.name]}") if times[call.name] > 1 else call)
        seen[call.name] += 1
    return calls


class _CountedSums(TorchFunctionMode):
    """Counts sums of two tensors of one shape: where the branches of a residual block meet."""

    count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "").strip("_") in ("add", "iadd", "radd"):
            shapes = [term.shape for term in args if isinstance(term, Tensor) and term.is_floating_point()]
            self.count += len(shapes) == 2 and shapes[0] == shapes[1]
        return func(*args, **(kwargs or {}))


def _marks(tensor: Tensor) -> Tensor:
    rows = tensor.reshape(len(tensor), math.prod(tensor.shape[1:])).float()
    return rows @ torch.arange(1, 1 + rows.shape[1], dtype=rows.dtype, device=rows.device).sin()


def _without_samples_first(model: nn.Module, calls: Iterable[_Call], x: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape, by layer, of the outputs whose rows do not belong to the samples, one sample after the other.

    A second batch of another size tells rows that are samples from rows that are as many by chance. Where a sample has
    several rows it is tried out: the samples that both batches begin with must give the same rows. A model that takes
    the given batch alone is believed wherever the rows can be so many for each sample.
    """
    other = _batch_of_another_size(x)
    others, shapes = _trace_if_taken(model, other), {call.name: call.shape for call in calls if call.shape}
    strange = {name: shape for name, shape in shapes.items() if not shape[0] or shape[0] % len(x)}
    if others is None:
        return strange
    rows = {call.name: call.shape[0] for call in others if call.shape}
    strange |= {n: s for n, s in shapes.items() if n in rows and s[0] * len(other) != rows[n] * len(x)}
    doubtful = [name for name, shape in shapes.items() if shape[0] != len(x) and name not in strange]
    if doubtful:
        with lent(model, x.device), torch.no_grad():
            mine, theirs = (_representations(model, doubtful, batch) for batch in (x, other))
        common = min(len(x), len(other))
        strange |= {
            name: shapes[name]
            for name in doubtful
            if not (name in theirs and _begin_alike(mine[name], theirs[name], common * len(mine[name]) // len(x)))
        }
    moved = [name for name in _in_another_order(model, calls, x) if name not in strange]
    return strange | {name: shapes[name] for name in moved}


def _in_another_order(model: nn.Module, calls: Iterable[_Call], x: Tensor) -> list[str]:
    """The layers to which the samples do not come in the order of the batch: those of its reverse come not reversed.

    They are the same ones, though: where what is given beside x, or a random number, makes others of them, nothing is
    said. Nor is it of layers that see nothing of x.
    """
    marks = {call.name: call.marks for call in calls if call.marks is not None}
    reversed_calls = _trace_if_taken(model, x.flip(0))
    if reversed_calls is None:
        return []
    reverse = {call.name: call.marks for call in reversed_calls}
    moved = [name for name, mine in marks.items() if _reordered(mine, reverse.get(name), len(x))]
    if not moved:
        return []
    other_content = x.cos() if x.is_floating_point() else torch.zeros_like(x)
    others = {call.name: call.marks for call in _trace(model, other_content)}
    return [name for name in moved if not _equal(marks[name], others.get(name))]


def _equal(marks: Tensor, others: Tensor | None) -> bool:
    return others is not None and marks.shape == others.shape and torch.allclose(marks, others)


def _reordered(marks: Tensor, others: Tensor | None, samples: int) -> bool:
    if others is None or len(others) != len(marks) or len(marks) % samples:
        return False
    mine, theirs = (each.view(samples, -1) - each.mean() for each in (marks, others))
    if float(mine.norm()) <= 1e-4 * float(marks.norm()):  # all alike
        return False
    in_place = bool((mine.flip(0) - theirs).norm() <= 1e-1 * mine.norm())
    same_ones = (mine.flatten().sort().values - theirs.flatten().sort().values).norm() <= 1e-2 * mine.norm()
    return bool(same_ones) and not in_place


def _batch_of_another_size(x: Tensor) -> Tensor:
    """Two samples, or three if ``x`` has two; it begins as ``x`` does."""
    return torch.cat([x, x.flip(-1)])[: 3 if len(x) == 2 else 2]


def _representations(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    with LayerProbe(model, layers, stop_early=True) as probe:
        model(x.clone())
    return probe.captured


def _begin_alike(mine: Tensor, theirs: Tensor, rows: int) -> bool:
    if mine.shape[1:] != theirs.shape[1:]:
        return False
    difference = (mine[:rows] - theirs[:rows]).float().norm()
    return bool(difference <= 1e-2 * theirs[:rows].float().norm())


def _after_activation(calls: Sequence[_Call]) -> list[Layer]:
    starts = [i for i, call in enumerate(calls) if isinstance(call.module, LEARNABLE)]
    layers = []
    for start, end in pairwise(starts):  # the last learnable layer is the classifier
        learnable, following = calls[start], calls[start + 1 : end]
        read_at = (
            next((c for c in following if _is_activation(c.module)), None)
            # A norm behind the sum of a residual block mixes both branches.
            or next((c for c in following if _is_norm(c.module) and c.sums == learnable.sums), None)
            or learnable
        )
        layers.append(Layer(read_at.name, learnable.name))
    return layers


def _is_activation(module: nn.Module) -> bool:
    # torch, timm and transformers each keep theirs in a module called activation(s).
    home = type(module).__module__.rpartition(".")[2]
    return home.startswith("activation") and not isinstance(module, _NOT_ACTIVATIONS)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or type(module).__name__ == "RMSNorm"


def _chosen(
    model: nn.Module, calls: Sequence[_Call], entries: Sequence[Any], learnable: Sequence[Layer]
) -> list[Layer]:
    """The layers that a list means, ``learnable`` being those of its entry of that name; outputs come last."""
    types = tuple(entry for entry in entries if isinstance(entry, type))
    names = {str(entry) for entry in entries if not isinstance(entry, type)}
    check_names_exist(model, names)
    whole = {name for name in names if means_all_learnable(model, name)}
    names -= whole
    by_default = {layer.name: layer for layer in learnable if whole}
    outputs = [name for name in (LOGITS, PROBABILITIES) if name in names and output_view(model, name)]
    ran = {call.name for call in calls} | {call.name.partition("#")[0] for call in calls}
    silent = [str(entry) for entry in entries if str(entry) in names - ran - set(outputs)]
    if silent:
        msg = f"expected layers that run in the forward pass, got {silent}, which did not run"
        raise ValueError(msg)
    wanted = [c for c in calls if isinstance(c.module, types) or {c.name, c.name.partition("#")[0]} & names]
    named = {call.name: Layer(call.name, call.name) for call in wanted}
    inside = [(named | by_default)[call.name] for call in calls if call.name in named or call.name in by_default]
    return [*inside, *(Layer(name, name) for name in outputs)]
