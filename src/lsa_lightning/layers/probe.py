"""Captures what layers output while a network runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._script import RecursiveScriptModule

from lsa_lightning.layers.calls import LEARNABLE, CallOrder, CallSite
from lsa_lightning.layers.outputs import ALL_LEARNABLE, LOGITS, OUTPUT, PROBABILITIES, means_all_learnable, output_view
from lsa_lightning.utils.isolation import reentrance_off
from lsa_lightning.utils.outputs import logits_of_rows, read_logits


def check_names_exist(model: nn.Module, names: Iterable[str]) -> None:
    """Raise a ValueError for names (with or without ``#k``) that are neither submodules of ``model`` nor known."""
    existing = [name for name, _ in model.named_modules() if name != OUTPUT]
    unknown = [name for name in names if name.partition("#")[0] not in existing and not _means_else(model, name)]
    if unknown:
        others = f"{LOGITS}, {PROBABILITIES}, {ALL_LEARNABLE}"
        msg = f"expected names of submodules, got unknown {unknown}; these exist: {', '.join(existing)}; or {others}"
        raise ValueError(msg)


def _means_else(model: nn.Module, name: str) -> bool:
    return output_view(model, name) is not None or means_all_learnable(model, name)


class _AllCaptured(BaseException):
    """Ends a forward pass early. Not an Exception, so that no handler in a model's forward swallows it."""


class LayerProbe:
    r"""Context that captures :math:`\phi_l` of the forward pass that runs inside it.

    Captured tensors are copies that keep their graph, so that an in-place activation running later cannot change them;
    ``keep`` may take something smaller instead.
    Where a module returns a tuple or a dict, its first floating tensor is the representation. If the model runs more
    than once inside the context, its first pass counts. Hooks are gone after the context, also after exceptions.
    Compiled modules run uncompiled meanwhile, as they would not see the hooks; see
    :class:`~lsa_lightning.layers.compiled.CompiledProbe`.

    Args:
        model: the module whose submodules are named.
        layers: names as in :func:`resolve_layers`: ``name``, or ``name#k`` for the k-th call; and what
            :mod:`~lsa_lightning.layers.outputs` names.
        samples: number of samples N of the batch. Representations ``[N * k, ...]`` then come out as ``[N, k, ...]``,
            one per sample; None: as the layers return them.
        stop_early: end the forward pass as soon as all layers are captured. The context then swallows the signal
            that ended it, and whatever stands behind the model's call inside the context is not executed.
        sites: where :func:`call_sites` saw the calls that the names mean. A layer that is not there is counted over the
            pass, which finds another call where the pass inside differs from the one in which names were given.
        needs_gradient: what runs under :func:`torch.no_grad` is no representation then. Reentrant checkpoints, which
            run so, become non-reentrant ones inside the context; their gradients are the same.
        read: reads the logits out of what the model returns, for the layers of
            :mod:`~lsa_lightning.layers.outputs`.
        keep: ``(layer, representation) -> what is kept of it``, called as soon as the layer has run; by default a copy.

    Attributes:
        passes: how often the model ran; under gradients, if they are needed.
        calls: by layer, the module that was captured for it and the number of that call in the pass.

    Raises:
        ValueError: on entering, if a name does not exist or is that of a scripted module, which takes no hooks; when
            representations are read, if a layer did not run, or ran without the gradients that are needed.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Linear(4, 1))
        >>> with LayerProbe(net, ["1"], stop_early=True) as probe:
        ...     _ = net(torch.zeros(3, 2))
        >>> probe.representations["1"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str],
        samples: int | None = None,
        stop_early: bool = False,
        sites: Mapping[str, CallSite] | None = None,
        needs_gradient: bool = False,
        read: Callable[[Any], Tensor] = read_logits,
        keep: Callable[[str, Tensor], Tensor] = lambda _, representation: representation.clone(),
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.samples = samples
        self.stop_early = stop_early
        self.needs_gradient = needs_gradient
        self.read = read
        self.keep = keep
        self._views = {layer: output_view(model, layer) for layer in self.layers}
        self._wanted: dict[CallSite | tuple[str, int], list[str]] = {}
        for layer in self.layers:
            key = _key(layer, sites or {}) if self._views[layer] is None else (OUTPUT, 0)
            self._wanted.setdefault(key, []).append(layer)
        self._start()

    def _start(self) -> None:
        self.passes = 0
        self.calls: dict[str, tuple[str, int]] = {}
        self._captured: dict[str, Tensor] = {}
        self._strange: dict[str, tuple[int, ...]] = {}
        self._without_gradient: set[str] = set()
        self._order = CallOrder()
        self._times: Counter[str] = Counter()

    @property
    def representations(self) -> dict[str, Tensor]:
        """Representation by layer name, in the order of ``layers``."""
        captured = self.captured
        missing = [name or "the model's own output" for name in self.layers if name not in captured]
        if missing:
            msg = f"expected every probed layer to run in the forward pass, got no output of {missing}"
            raise ValueError(msg)
        return captured

    @property
    def captured(self) -> dict[str, Tensor]:
        """Those of :attr:`representations` whose layers ran: a pass in training may skip some."""
        missing = [layer for layer in self.layers if layer not in self._captured]
        ran = self._without_gradient
        blind = [name for name in missing if (OUTPUT if self._views[name] else name.partition("#")[0]) in ran]
        if blind:
            msg = (
                f"expected layers that run where gradients are on, got {blind}, which ran under torch.no_grad(): a "
                "penalty on them would have no gradient; choose other layers"
            )
            raise ValueError(msg)
        if self._strange:
            msg = (
                f"expected layers with one or more rows per sample, of {self.samples} samples, got {self._strange}: a "
                "layer that is given a part of the batch, such as an expert, has none; name the layers that are meant, "
                "without it"
            )
            raise ValueError(msg)
        return {name: self._captured[name] for name in self.layers if name in self._captured}

    @property
    def ran(self) -> bool:
        """Whether the model, or any module that is watched, ran inside the context."""
        return self.passes > 0 or bool(self._times) or bool(self._without_gradient)

    def __enter__(self) -> LayerProbe:
        check_names_exist(self.model, self.layers)
        self._start()
        with ExitStack() as stack:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(fast_attention_off())
            if self.needs_gradient:
                stack.enter_context(reentrance_off())
            if takes_hooks(self.model):
                stack.callback(self.model.register_forward_pre_hook(self._begin).remove)
            for name in self._watched():
                module = self.model.get_submodule(name)
                stack.callback(module.register_forward_hook(self._capturer(name)).remove)
            self._stack = stack.pop_all()
        return self

    def restart(self) -> None:
        """Forget what was captured: the pass that counts begins now."""
        self._start()

    def _watched(self) -> list[str]:
        """The modules that need a hook: those of the layers, and the learnable ones that their calls follow."""
        wanted = {key[0] for key in self._wanted}
        scripted = [name for name in sorted(wanted) if not takes_hooks(self.model.get_submodule(name))]
        if scripted:
            msg = f"expected layers that take hooks, got {scripted}, which are scripted by torch.jit"
            raise ValueError(msg)
        if any(isinstance(key, CallSite) and key.after is not None for key in self._wanted):
            wanted |= {name for name, module in self.model.named_modules() if isinstance(module, LEARNABLE)}
        return list(wanted)

    def _begin(self, *_: object) -> None:
        self.passes += self._counts_now()

    def _counts_now(self) -> bool:
        return not self.needs_gradient or torch.is_grad_enabled()

    def _capturer(self, name: str) -> Callable[..., None]:
        def capture(module: nn.Module, args: Any, output: Any) -> None:
            if not self._counts_now():
                self._without_gradient.add(name)
            elif self.passes <= 1:
                self._see(name, module, output)

        return capture

    def _see(self, name: str, module: nn.Module, output: Any) -> None:
        site = self._order.note(name, module)
        layers = self._wanted.get(site, self._wanted.get((name, self._times[name]), []))
        for layer in layers:
            self.calls[layer] = (name, self._times[name])
            self._take(layer, output)
        self._times[name] += 1
        if layers and self.stop_early and len(self._captured) == len(self.layers):
            raise _AllCaptured

    def _take(self, layer: str, output: Any) -> None:
        view = self._views[layer]
        tensor = representation(layer, output) if view is None else view(self._rows_of(self.read(output)))
        if _has_rows(tensor, self.samples):
            self._captured[layer] = self.keep(layer, by_sample(tensor, self.samples))
        else:
            self._captured[layer], self._strange[layer] = tensor, tuple(tensor.shape)

    def _rows_of(self, logits: Tensor) -> Tensor:
        return logits if self.samples is None else logits_of_rows(logits, self.samples)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stack.close()
        return isinstance(error, _AllCaptured)


@contextmanager
def fast_attention_off() -> Iterator[None]:
    """Transformers in eval mode run as in training, layer by layer.

    Where no layer inside has a hook, torch fuses them otherwise, and leaves padding out of what they return.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def takes_hooks(module: nn.Module) -> bool:
    """Whether ``module`` can be hooked: scripted modules cannot, traced ones can."""
    return not isinstance(module, RecursiveScriptModule)


def _key(layer: str, sites: Mapping[str, CallSite]) -> CallSite | tuple[str, int]:
    """The call that a name means: where it was seen, else its number in the pass."""
    name, _, call = layer.partition("#")
    return sites.get(layer, (name, int(call or 0)))


def _has_rows(tensor: Tensor, samples: int | None) -> bool:
    """Whether ``tensor`` has one or more rows per sample, as far as there is anything to say."""
    return samples is None or tensor.ndim == 0 or (len(tensor) > 0 and len(tensor) % samples == 0)


def by_sample(tensor: Tensor, samples: int | None) -> Tensor:
    """``[N * k, ...]`` as ``[N, k, ...]``."""
    if samples is None or tensor.ndim == 0 or len(tensor) == samples:
        return tensor
    return tensor.reshape(samples, len(tensor) // samples, *tensor.shape[1:])


def representation(layer: str, output: Any) -> Tensor:
    """The first floating tensor of what ``layer`` returned."""
    tensor = first_floating(output)
    if tensor is None:
        msg = f"expected layer {layer} to return a floating tensor, or a tuple or dict holding one, got {_kind(output)}"
        raise ValueError(msg)
    return tensor


def _kind(output: Any) -> str:
    if not isinstance(output, Tensor):
        return str(type(output))
    return f"{output.dtype}" if output.layout is torch.strided else f"{output.dtype} in layout {output.layout}"


def first_floating(output: Any) -> Tensor | None:
    """The first floating tensor, not a sparse one, in tuples, lists and mappings of any depth; None: there is none."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.layout is torch.strided else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := first_floating(part)) is not None), None)
