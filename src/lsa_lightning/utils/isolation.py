"""Context managers that lend a model out and give it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """Every submodule in eval mode; each one's own mode comes back afterwards, also after an exception.

    The flag is set directly: ``model.train()`` at the end would unfreeze submodules that a user keeps in eval mode, and
    an overridden ``train`` may do more than set it. A plain function has no modes and is left alone.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


@contextmanager
def scratch_buffers(model: nn.Module) -> Iterator[None]:
    """Forward passes inside work on copies of all buffers; the original tensors come back untouched.

    BatchNorm in training mode then normalises with the batch's statistics and its running ones do not move, and the
    same holds for any other module that updates a buffer. The originals are swapped out rather than restored by a
    copy, because writing into them would invalidate a graph that is still waiting for its backward pass.
    """
    owners: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
        (module._buffers, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in owners}
    for buffers, name, buffer in owners:
        buffers[name] = copies[id(buffer)]
    try:
        yield
    finally:
        for buffers, name, buffer in owners:
            buffers[name] = buffer


class RandomStateAtForward:
    """Remembers torch's random state at the moment a model's forward pass begins, to replay it for another pass.

    Two passes from the same state draw the same dropout masks. Enter it around code that runs the model, then run the
    second pass inside :meth:`replay`, after which the random state is again what it was before.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.devices = [device] if device.type == "cuda" else []
        self._states: list[Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RandomStateAtForward:
        # The user's code may call a submodule directly, so any of them can be the first to run.
        self._handles = [module.register_forward_pre_hook(self._record) for module in self.model.modules()]
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _record(self, *_: object) -> None:
        if self._states is None:
            self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the code inside from the remembered state."""
        with torch.random.fork_rng(devices=self.devices):
            if self._states is not None:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self.devices, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
