"""Captures what layers output while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OUTPUT = ""
"""The layer name under which a probe captures the output of the model itself."""


def check_names_exist(model: nn.Module, names: Iterable[str]) -> None:
    """Raise a ValueError for layer names (with or without ``#k``) that are no submodules of ``model``."""
    existing = [name for name, _ in model.named_modules() if name != OUTPUT]
    unknown = [name for name in names if name != OUTPUT and name.partition("#")[0] not in existing]
    if unknown:
        msg = f"expected names of submodules, got unknown {unknown}; these exist: {', '.join(existing)}"
        raise ValueError(msg)


class _AllCaptured(BaseException):
    """Ends a forward pass early. Not an Exception, so that no handler in a model's forward swallows it."""


class LayerProbe:
    r"""Context that captures :math:`\phi_l` of the forward pass that runs inside it.

    Captured tensors are copies that keep their graph, so that an in-place activation running later cannot change them.
    Where a module returns a tuple or a dict, its first floating tensor is the representation. If the model runs more
    than once inside the context, its first pass counts. Hooks are gone after the context, also after exceptions.

    Args:
        model: the module whose submodules are named.
        layers: names as in :func:`resolve_layers`: ``name``, or ``name#k`` for the k-th call.
        samples: number of samples N of the batch. Representations ``[N * k, ...]`` then come out as ``[N, k, ...]``,
            one per sample; None: as the layers return them.
        stop_early: end the forward pass as soon as all layers are captured. The context then swallows the signal
            that ended it, and whatever stands behind the model's call inside the context is not executed.

    Raises:
        ValueError: on entering, if a name does not exist; when representations are read, if a layer did not run.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Linear(4, 1))
        >>> with LayerProbe(net, ["1"], stop_early=True) as probe:
        ...     _ = net(torch.zeros(3, 2))
        >>> probe.representations["1"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[str], samples: int | None = None, stop_early: bool = False
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.samples = samples
        self.stop_early = stop_early
        self._captured: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def representations(self) -> dict[str, Tensor]:
        """Representation by layer name, in the order of ``layers``."""
        missing = [name or "the model's own output" for name in self.layers if name not in self._captured]
        if missing:
            msg = f"expected every probed layer to run in the forward pass, got no output of {missing}"
            raise ValueError(msg)
        return {name: _by_sample(self._captured[name], self.samples) for name in self.layers}

    def __enter__(self) -> LayerProbe:
        check_names_exist(self.model, self.layers)
        self._captured = {}
        calls_of: dict[str, dict[int, str]] = {}
        for layer in self.layers:
            name, _, call = layer.partition("#")
            calls_of.setdefault(name, {})[int(call or 0)] = layer
        for name, calls in calls_of.items():
            self._handles.append(self.model.get_submodule(name).register_forward_hook(self._capturer(calls)))
        return self

    def _capturer(self, layer_of_call: Mapping[int, str]) -> Callable[..., None]:
        call = -1

        def capture(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal call
            call += 1
            if call not in layer_of_call:
                return
            layer = layer_of_call[call]
            tensor = _first_floating(output)
            if tensor is None:
                msg = f"expected layer {layer} to return a floating tensor, or a tuple or dict holding one, got "
                raise ValueError(msg + str(type(output)))
            self._captured[layer] = tensor.clone()
            if self.stop_early and len(self._captured) == len(self.layers):
                raise _AllCaptured

        return capture

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        _remove(self._handles)
        self._handles = []
        return isinstance(error, _AllCaptured)


def _by_sample(tensor: Tensor, samples: int | None) -> Tensor:
    """``[N * k, ...]`` as ``[N, k, ...]``."""
    if samples is None or tensor.ndim == 0 or len(tensor) == samples or len(tensor) % samples:
        return tensor
    return tensor.reshape(samples, len(tensor) // samples, *tensor.shape[1:])


def _first_floating(output: Any) -> Tensor | None:
    values = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    )
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def _remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
