"""Compiled passes that return what layers output: hooks from outside would not be seen by the compiled model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from typing_extensions import Self

from lsa_lightning.layers.outputs import OUTPUT
from lsa_lightning.layers.probe import LayerProbe, representation
from lsa_lightning.utils.isolation import EnterHooks, RandomState, hooks_entered_by

_OPTIONS: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""What can be told not to write its buffers, and then does not in train mode compute otherwise."""


def compile_in_place(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Compile ``model`` by its own ``compile``; a :class:`CompiledProbe` of it is compiled with the same options."""
    model.compile(**options)
    _OPTIONS[model] = options


class CompiledProbe:
    """What a :class:`~lsa_lightning.layers.probe.LayerProbe` captures, out of passes that run compiled.

    The function that is compiled runs the model and returns, beside its output, what hooks on the layers kept: they are
    a part of its graph. Where nothing but representations is wanted, the compiler leaves out what lies behind them.

    A step that ran as it was written must have shown first which call of which module each layer is, and that nothing
    forbids this: a pass that draws random numbers might draw others compiled, and one that is checkpointed is run again
    in the backward pass. Layers once shown stay in the graph, so that a list that changes to and fro is compiled a few
    times only. What forbids it is said once, and the passes run as they were written from then on.

    Args:
        model: the model, compiled by :func:`compile_in_place`.
        options: of ``torch.compile``.

    Attributes:
        forbidden: whether something forbids to compile these passes.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any]) -> None:
        self.model = model
        self.forbidden = False
        self._calls: dict[str, tuple[str, int]] = {}
        self._outputs: dict[str, list[Tensor]] = {}
        self._compiled = torch.compile(self._run, **{**options, "fullgraph": True})

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """One for ``model``; None where :func:`compile_in_place` has not compiled it."""
        options = None if model._compiled_call_impl is None else _OPTIONS.get(model)
        return None if options is None else cls(model, options)

    def covers(self, layers: Iterable[str]) -> bool:
        """Whether passes that return what ``layers`` output can run compiled."""
        return not self.forbidden and self._calls.keys() >= set(layers)

    @contextmanager
    def watching(self, device: torch.device) -> Iterator[None]:
        """A step that runs inside, in whatever way, shows whether the next ones can run compiled.

        Args:
            device: where it runs.
        """
        before, buffers = RandomState(device), _buffers(self.model)
        entered = []

        def note(hooks: saved_tensors_hooks, enter: EnterHooks) -> None:
            entered.append(hooks)
            enter(hooks)

        with hooks_entered_by(note):
            yield
        if before != RandomState(device):
            self._forbid("it draws random numbers in train mode")
        if entered:
            self._forbid("it is checkpointed")
        if written := [name for name, state in _buffers(self.model).items() if buffers.get(name) != state]:
            self._forbid(f"it writes {', '.join(written)}, which the pass of the penalty must not")

    def learn(self, probe: LayerProbe) -> None:
        """See which calls the layers are, and whether the model's passes can run compiled.

        Args:
            probe: saw the pass of a step.
        """
        if probe.passes != 1:
            self._forbid(f"a step calls it {probe.passes} times")
        elif any(name == OUTPUT for name, _ in probe.calls.values()):
            self._forbid("its own output is compared")
        else:
            self._calls |= probe.calls
            self._outputs = {name: [] for name, _ in self._calls.values()}

    def _forbid(self, reason: str) -> None:
        if not self.forbidden:
            self.forbidden = True
            name = type(self.model).__name__
            rank_zero_info(f"The two passes of a step whose layers are compared run {name} uncompiled: {reason}.")

    @contextmanager
    def within_step(self) -> Iterator[dict[str, Tensor]]:
        """The first pass under gradients that a step makes inside is one of these.

        Yields:
            Representation by layer of that pass; empty as long as there was none.
        """
        own: Any = self.model._compiled_call_impl
        found: dict[str, Tensor] = {}

        def call(*args: Any, **kwargs: Any) -> Any:
            if found or not torch.is_grad_enabled():
                return own(*args, **kwargs)
            output, captured = self._through(True, *args, **kwargs)
            found.update(captured)
            return output

        self.model._compiled_call_impl = call
        try:
            yield found
        finally:
            self.model._compiled_call_impl = own

    def alone(self, x: Tensor) -> dict[str, Tensor]:
        """Representation by layer of ``x``; buffers stay as they are."""
        with _statistics_off(self.model):
            captured: dict[str, Tensor] = self._through(False, x)[1]
        return captured

    def _through(self, with_output: bool, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for name in self._outputs:
                module = self.model.get_submodule(name)
                stack.callback(module.register_forward_hook(self._keeper(name)).remove)
            try:
                return self._compiled(with_output, *args, **kwargs)
            except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
                self._forbid(str(error).strip().splitlines()[0])
            with torch.compiler.set_stance("force_eager"):
                return self._run(with_output, *args, **kwargs)

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._outputs[name].append(representation(name, output).clone())

        return keep

    def _run(self, with_output: bool, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """What is compiled."""
        try:
            output = self.model._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
            captured = {layer: self._outputs[name][number] for layer, (name, number) in self._calls.items()}
        finally:
            for outputs in self._outputs.values():
                outputs.clear()  # inside, as the graph would return what is still in them
        return (output if with_output else None), captured


def _buffers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Which tensor each buffer is, and how often it was written; but for those of batch norms."""
    return {
        f"{name}.{key}".lstrip("."): (id(buffer), buffer._version)
        for name, module in model.named_modules()
        if not isinstance(module, _BATCH_NORMS)
        for key, buffer in module._buffers.items()
        if buffer is not None
    }


@contextmanager
def _statistics_off(model: nn.Module) -> Iterator[None]:
    """Batch norm in train mode, which normalises by the batch, does not move its statistics meanwhile.

    It is told by its flag: on copies of the buffers the graph would compute them all, and all layers for them.
    """
    norms = [m for m in model.modules() if isinstance(m, _BATCH_NORMS) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
