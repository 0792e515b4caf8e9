"""Context managers that lend a model out and give it back as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.jit._script import RecursiveScriptModule
from torch.nn.utils import parametrize
from torch.utils import checkpoint
from torch.utils.hooks import RemovableHandle

from lsa_lightning.utils.attributes import Attributes, parts_of
from lsa_lightning.utils.stand_ins import stand_in


@contextmanager
def lent(model: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Eval mode; modes, buffers and random state are afterwards as before, also after an exception.

    Gradients of the input can be taken through checkpoints of either kind.

    Eval mode alone is not enough: quantisation observers and counters write their buffers in it too, and some models
    draw random numbers.

    Such a model draws other numbers here than in the next pass outside, as an attack must not know those by which it
    is judged.

    Args:
        model: an ``nn.Module``, or a plain function, which has neither modes nor buffers.
        device: where it runs.
    """
    with evaluating(model), scratch_buffers(model), preserved_random_state(device), reentrance_off():
        torch.rand(1)
        torch.rand(1, device=device)
        yield


@contextmanager
def frozen(model: Callable[..., Any]) -> Iterator[Callable[[], None]]:
    """No parameter requires a gradient, so that a graph keeps nothing for theirs; afterwards each does as before.

    The flag alone is set: whoever holds on to a parameter's place in graphs, as DDP's reducer does, finds it again.
    Parameters that are computed from others, as in ``torch.func.functional_call``, stay as they are.

    Layers that then can do with less, such as a batch norm in eval mode, which keeps half of what a convolutional
    network keeps in all, have a :func:`~lsa_lightning.utils.stand_ins.stand_in` meanwhile. Compiled models choose
    themselves what they keep, and run the layers that they were compiled from.

    Args:
        model: an ``nn.Module`` in eval mode, or a plain function, which is left alone.

    Yields:
        A function that gives the parameters back at once, for a model whose forward pass needs their gradients.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = {id(p): p for module in modules for p in module._parameters.values() if p is not None}
    held = [parameter for parameter in parameters.values() if parameter.requires_grad and parameter.is_leaf]
    found = [] if any(map(is_compiled, modules)) else [(module, stand_in(module)) for module in modules]
    replaced = [module for module, other in found if other is not None]

    def thaw() -> None:
        while held:
            held.pop().requires_grad_(True)
        while replaced:
            del vars(replaced.pop())["forward"]

    for parameter in held:
        parameter.requires_grad_(False)
    for module, other in found:
        if other is not None:
            vars(module)["forward"] = other
    try:
        with _uncached():
            yield thaw
    finally:
        thaw()


@contextmanager
def _uncached() -> Iterator[None]:
    """Weights that parametrizations compute inside are not kept for passes outside, whose gradients they would lack."""
    before, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` is what ``torch.compile`` returned, or was compiled in place, or its ``forward`` alone was."""
    forward = vars(module).get("forward")
    in_place = module._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable")
    return in_place or type(module).__name__ == "OptimizedModule"  # its own module takes long to import


@contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """Every submodule in eval mode; each one's own mode comes back afterwards, also after an exception.

    The flag is set directly: ``model.train()`` at the end would unfreeze submodules that a user keeps in eval mode, and
    an overridden ``train`` may do more than set it. Such a module, in train mode, gets its attributes back too, since
    some keep in eval mode what they have computed of their weights, until ``train()``. A plain function has no modes
    and is left alone.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    attributes = Attributes(_parts_with_modes_of_their_own(modules))
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training
        attributes.put_back()


def _parts_with_modes_of_their_own(modules: list[nn.Module]) -> list[nn.Module]:
    """Those in train mode whose ``train`` is their own, with all their parts."""
    found: dict[int, nn.Module] = {}
    for module in modules:
        if module.training and type(module).train is not nn.Module.train and id(module) not in found:
            found |= {id(part): part for part in parts_of(module)}
    return list(found.values())


Buffers: TypeAlias = dict[tuple[nn.Module, str], Tensor]
"""Buffers by their module and name."""


@contextmanager
def scratch_buffers(
    model: Callable[..., Any], copies: Buffers | None = None, *, backward: bool = False
) -> Iterator[None]:
    """Forward passes inside work on copies of the buffers; the original tensors come back untouched.

    BatchNorm in training mode then normalises with the batch's statistics and its running ones do not move, and the
    same holds for any other module that updates a buffer. The originals are swapped out rather than restored by a
    copy, because writing into them would invalidate a graph that is still waiting for its backward pass. Modules of
    ``torch.nn`` in eval mode write none; they keep theirs, as an attack in each training step must not copy them all.

    Args:
        model: an ``nn.Module``, or a plain function, which has none.
        copies: :func:`copied_buffers` of an earlier moment, with which the passes inside begin; None: of now, as it is
            for buffers that were registered since.
        backward: also what checkpoints inside run once more, in a backward pass after it.
    """
    before = {} if copies is None else copies
    since = {key: buffer for key, buffer in _written_buffers(model).items() if key not in before}
    scratch = {**before, **_copied(since)}
    exchanged = partial(_buffers_being, scratch)
    with _unpacked_in(exchanged) if backward and scratch else nullcontext(), exchanged():
        yield


@contextmanager
def _buffers_being(buffers: Buffers) -> Iterator[None]:
    originals = {(module, name): module._buffers[name] for module, name in buffers if name in module._buffers}
    for module, name in originals:
        module._buffers[name] = buffers[module, name]
    try:
        yield
    finally:
        for (module, name), original in originals.items():
            module._buffers[name] = original


EnterHooks: TypeAlias = Callable[[saved_tensors_hooks], None]
"""What enters hooks on saved tensors."""

_NO_BACKWARD_PASS = -1
"""The number that torch gives where none runs; each backward pass has another."""


@contextmanager
def _unpacked_in(around: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """What hooks on saved tensors that are entered inside give back first in a backward pass, they do in ``around()``.

    Each checkpoint is such a hook, which runs modules once more then, for all that it gives back; ``around()``
    may cost more than one tensor is worth.
    """

    def enter_around(hooks: saved_tensors_hooks, enter: EnterHooks) -> None:
        unpack, latest = hooks.unpack_hook, _NO_BACKWARD_PASS

        def unpack_around(packed: Any) -> Any:
            nonlocal latest
            before, latest = latest, torch._C._current_graph_task_id()
            first = before != latest or latest == _NO_BACKWARD_PASS
            with around() if first else nullcontext():
                return unpack(packed)

        hooks.unpack_hook = unpack_around
        try:
            enter(hooks)
        finally:
            hooks.unpack_hook = unpack

    with hooks_entered_by(enter_around):
        yield


@contextmanager
def hooks_entered_by(enter: Callable[[saved_tensors_hooks, EnterHooks], None]) -> Iterator[None]:
    """Hooks on saved tensors, such as those of checkpoints, are entered inside by ``enter(hooks, as_otherwise)``."""
    otherwise = saved_tensors_hooks.__enter__
    saved_tensors_hooks.__enter__ = lambda hooks: enter(hooks, otherwise)  # type: ignore[method-assign]
    try:
        yield
    finally:
        saved_tensors_hooks.__enter__ = otherwise  # type: ignore[method-assign]


def copied_buffers(model: Callable[..., Any]) -> Buffers:
    """Copies of all buffers that a forward pass may write; those that are one tensor are one copy."""
    return _copied(_written_buffers(model))


def _copied(buffers: Buffers) -> Buffers:
    copies = {id(buffer): buffer.clone() for buffer in buffers.values()}
    return {key: copies[id(buffer)] for key, buffer in buffers.items()}


def _written_buffers(model: Callable[..., Any]) -> Buffers:
    return {
        (module, name): buffer
        for module in (model.modules() if isinstance(model, nn.Module) else [])
        if _may_write_buffers(module)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def _may_write_buffers(module: nn.Module) -> bool:
    return module.training or not type(module).__module__.startswith("torch.nn.modules.")


@contextmanager
def reentrance_off() -> Iterator[None]:
    """Reentrant checkpoints, which neither know ``torch.autograd.grad`` nor show a graph, become non-reentrant ones.

    They recompute the same, and their gradients are the same; but where none of its inputs requires a gradient, a
    reentrant one gives its parameters none either, of which torch warns, and this one does.
    """
    original = checkpoint.CheckpointFunction
    checkpoint.CheckpointFunction = _Nonreentrant  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        checkpoint.CheckpointFunction = original  # type: ignore[misc]


class _Nonreentrant:
    """In place of torch's reentrant checkpoint function: the same recomputation, with a graph in the first pass."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        def with_those_inside(*args: Any) -> Any:
            with reentrance_off():  # it may be on again when this is run once more
                return function(*args)

        kept = preserve_rng_state
        return checkpoint.checkpoint(with_those_inside, *args, use_reentrant=False, preserve_rng_state=kept)


class RandomState:
    """The state of all generators that a model's forward pass may draw from: Python's, NumPy's and torch's."""

    def __init__(self, device: torch.device) -> None:
        self.devices = _with_generators(device)
        self.python, self.numpy, self.torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.on_devices = [torch.get_device_module(device).get_rng_state(device) for device in self.devices]

    def __eq__(self, other: object) -> bool:
        """Whether nothing was drawn between the two."""
        return isinstance(other, RandomState) and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(self._parts(), other._parts(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def _parts(self) -> list[Any]:
        tensors = [self.torch, *self.on_devices]
        return [self.python[1], *self.numpy, *(state.cpu() for state in tensors)]

    def restore(self) -> None:
        """Go back to it."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        for device, state in zip(self.devices, self.on_devices, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors, for a checkpoint."""
        name, keys, *rest = self.numpy
        numpy = [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest]
        return {"python": self.python, "numpy": numpy, "torch": self.torch, "on_devices": self.on_devices}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's; devices that it did not run on are left as they are."""
        name, keys, *rest = state["numpy"]
        self.python, self.torch = state["python"], state["torch"].cpu()
        self.numpy = (name, keys.cpu().numpy().astype(np.uint32), *rest)  # type: ignore[assignment]
        self.on_devices = [tensor.cpu() for tensor in state["on_devices"]]
        self.devices = self.devices[: len(self.on_devices)]
        self.on_devices = self.on_devices[: len(self.devices)]


@contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """What is drawn inside from the global generators, on the CPU and on ``device``, is not missing afterwards."""
    before = RandomState(device)
    try:
        yield
    finally:
        before.restore()


def seed_host_generators(seed: int) -> None:
    """Seed all generators on the CPU that data may be drawn from: Python's, NumPy's and torch's, and no device's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def _with_generators(device: torch.device) -> list[torch.device]:
    """``device``, unless its random state is that of the CPU."""
    return [] if device.type in ("cpu", "meta") else [device]


def autocast_as_now(device: torch.device) -> AbstractContextManager[None]:
    """Casts types automatically, or does not, as it is done on ``device`` at the moment."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    dtype, cached = torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()
    return torch.autocast(kind, dtype, enabled=torch.is_autocast_enabled(kind), cache_enabled=cached)


class RandomStateAtForward:
    """Remembers the global random state at the moment a model's forward pass begins, to replay it for another pass.

    Two passes from the same state draw the same dropout masks. Whether types are cast automatically is remembered too,
    as a step may do so around its own call alone. Enter it around code that runs the model, then run the
    second pass inside :meth:`replay`, after which the random state is again what it was before. A pass with gradients
    counts before one without, such as a teacher's.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._state: RandomState | None = None
        self._autocast: AbstractContextManager[None] = nullcontext()
        self._with_gradient = False
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RandomStateAtForward:
        # The user's code may call a submodule directly, so any of them can be the first to run.
        self._handles = [module.register_forward_pre_hook(self._called) for module in hookable_modules(self.model)]
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _called(self, *_: object) -> None:
        self.record()

    def record(self, *, final: bool = True) -> None:
        """A pass begins now; one that is not ``final`` gives way to the next with gradients."""
        if self._state is None or (torch.is_grad_enabled() and not self._with_gradient):
            self._state = RandomState(self.device)
            self._autocast = autocast_as_now(self.device)
            self._with_gradient = final and torch.is_grad_enabled()

    def began_at(self, state: RandomState) -> None:
        """The pass began with that state, whatever was remembered."""
        self._state, self._autocast, self._with_gradient = state, autocast_as_now(self.device), True

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the code inside from the remembered state."""
        with preserved_random_state(self.device), self._autocast:
            if self._state is not None:
                self._state.restore()
            yield


def hookable_modules(model: nn.Module) -> list[nn.Module]:
    """The submodules, ``model`` included, that take hooks: all but scripted ones."""
    return [module for module in model.modules() if not isinstance(module, RecursiveScriptModule)]
