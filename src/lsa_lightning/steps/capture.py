"""What layers give in a user's step, from the moment on at which its pass on x begins."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

import torch
from torch import nn

from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.utils.isolation import Buffers, RandomState, RandomStateAtForward, copied_buffers


class NoCapture:
    """Captures nothing."""

    def begin(self, *, called: bool = False) -> None:
        """The pass is about to begin; ``called``: it has, the model has just been called."""

    def began_at(self, state: RandomState, *, anew: bool) -> None:
        """The pass that has begun did so with this random state; ``anew``: what was captured before is not of it."""


class Capture(NoCapture):
    """Captures layers in a step; entered around it.

    Args:
        model: the model.
        probe: reads its layers.
        random_state: remembers with which random numbers the pass began.
        keeps_buffers: whether buffers must be known as they were then.

    Attributes:
        buffers: copies of them.
    """

    def __init__(
        self, model: nn.Module, probe: LayerProbe, random_state: RandomStateAtForward, *, keeps_buffers: bool
    ) -> None:
        self.model = model
        self.probe = probe
        self.random_state = random_state
        self.keeps_buffers = keeps_buffers
        self.buffers: Buffers = {}
        self._stack = ExitStack()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def begin(self, *, called: bool = False) -> None:
        """See :class:`NoCapture`."""
        self._keep_buffers()
        self._stack.enter_context(self.random_state)
        self.random_state.record(final=called)
        self._stack.enter_context(self.probe)
        self.probe.passes += called and torch.is_grad_enabled()  # whose hooks came too late for it

    def began_at(self, state: RandomState, *, anew: bool) -> None:
        """See :class:`NoCapture`."""
        self.random_state.began_at(state)
        if anew:
            self._keep_buffers()
            self.probe.restart()

    def _keep_buffers(self) -> None:
        if self.keeps_buffers:
            self.buffers.update(copied_buffers(self.model))
