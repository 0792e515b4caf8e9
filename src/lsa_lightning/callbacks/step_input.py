"""What a user's step feeds to the model, which need not be the batch's x: it may be normalised or augmented before."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric
from typing_extensions import Self

from lsa_lightning.callbacks.target import Target
from lsa_lightning.utils.batch import WholeBatchError, replace_tensor, rows_of, samples_of_batch
from lsa_lightning.utils.isolation import (
    evaluating,
    hookable_modules,
    preserved_random_state,
    reentrance_off,
    scratch_buffers,
)


@dataclass(frozen=True, eq=False)
class ModelCall:
    """The arguments that a module was called with, one of which is, or holds, the input.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        x: the input.
        guessed: whether another argument might as well be the input.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x: Tensor
    guessed: bool = False

    @classmethod
    def found_in(cls, args: tuple[Any, ...], kwargs: dict[str, Any], given: GivenBatch) -> Self | None:
        """The call whose input is x of the batch, or the floating tensor with a row per sample that is most like it.

        That is, in this order, x itself, a view of it, one of its shape, with as many numbers, with as many dimensions,
        and any other; of several that are alike, the first. Other tensors of the batch, and their views, come last.
        None where it has none; it has none either where it is given an ``x`` of integers.
        """
        inputs = [each for each in tensors_in((args, kwargs)) if _same_place(each, given.x) or _could_be(each, given.x)]
        inputs.sort(key=given.unlike)
        if not inputs or not inputs[0].is_floating_point():
            return None
        unlike = [given.unlike(each) for each in inputs[:2]]
        guessed = len(inputs) > 1 and unlike[0] == unlike[1] and all(unlike[0][1:])
        return cls(args, dict(kwargs), inputs[0], guessed)

    @property
    def is_plain(self) -> bool:
        """Whether the input is the only argument, by position."""
        return len(self.args) == 1 and not self.kwargs and self.args[0] is self.x

    def arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with ``x`` in place of the input, and the other tensors' rows beside it.

        Args:
            x: as many samples as the input has, or some of them: those that are named by
                :func:`~lsa_lightning.utils.batch.part_of_batch`, else its own first ones; where no other argument has a
                row per sample, any number of samples.

        Raises:
            WholeBatchError: if ``x`` is other samples, whose rows of the other arguments are unknown.
        """
        samples = len(self.x)
        arguments = replace_tensor((self.args, self.kwargs), self.x, x)
        if len(x) != samples and _have_rows(arguments, samples):
            arguments = rows_of(arguments, samples, self._places(x))
        args, kwargs = arguments
        return args, kwargs

    def _places(self, x: Tensor) -> Tensor | slice:
        """Which samples of the batch ``x`` are."""
        part = samples_of_batch()
        if part is not None and (len(part[0]), part[1]) == (len(x), len(self.x)):
            return part[0]
        if torch.equal(x, self.x[: len(x)]):
            return slice(len(x))
        msg = (
            f"expected the {len(self.x)} samples of the batch, as the model is given further tensors with a row for "
            f"each, got {len(x)}: attacks of one's own give it all samples, or name some by part_of_batch, and "
            "unlabelled inputs have no such rows"
        )
        raise WholeBatchError(msg)


def tensors_in(collection: Any) -> list[Tensor]:
    """The tensors in nested containers, in their order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    apply_to_collection(collection, Tensor, note, allow_frozen=True)
    return found


def _could_be(tensor: Tensor, x: Tensor) -> bool:
    """Whether a tensor may be the input of as many samples as ``x`` has."""
    return tensor.is_floating_point() and tensor.ndim > 1 and len(tensor) == len(x)


def _same_place(tensor: Tensor, other: Tensor) -> bool:
    """Whether both are the same numbers in memory."""
    return tensor is other or _place(tensor) == _place(other)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:  # sparse ones have no such place
        return (id(tensor),)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _is_view(tensor: Tensor, other: Tensor) -> bool:
    """Whether ``tensor`` lies within the memory of ``other``."""
    if not tensor.layout == other.layout == torch.strided:  # sparse ones have no such place
        return tensor is other
    (first, last), (begin, end) = _extent(tensor), _extent(other)
    return begin <= first and last <= end


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first number and of what follows the last one."""
    begin, steps = tensor.data_ptr(), zip(tensor.shape, tensor.stride(), strict=True)
    return begin, begin + tensor.element_size() * (1 + sum((size - 1) * stride for size, stride in steps))


class GivenBatch:
    """The batch that a step runs on, to tell what it gives the model.

    Args:
        batch: the batch.
        x: its inputs, which need not be in it.
        asides: of each call of the model with something that does not lie in the batch, in their order, whether it has
            nothing to do with x, see :func:`calls_aside`; of later ones it is not known.

    Attributes:
        changed_calls: how many such calls have been asked about.
    """

    def __init__(self, batch: Any, x: Tensor, asides: Sequence[bool] = ()) -> None:
        self.x = x
        self._asides = asides
        self.changed_calls = 0
        self._version = _version(x)
        tensors = tensors_in(batch)
        own = any(each is x for each in tensors)  # else batch_fn made it of one of them
        self._beside = [each for each in tensors if _could_be(each, x) and not _same_place(each, x)]
        self._others = self._beside if own else []

    @property
    def has_others(self) -> bool:
        """Whether another tensor of the batch might be given to the model, as inputs without labels."""
        return bool(self._others)

    def unlike(self, tensor: Tensor) -> tuple[bool, ...]:
        """How little a tensor that the model is given looks like x; what sorts first looks most like it."""
        mine = _is_view(tensor, self.x)
        other = not mine and any(_is_view(tensor, each) for each in self._beside)
        sizes = tensor.shape == self.x.shape, tensor.numel() == self.x.numel(), tensor.ndim == self.x.ndim
        alike = _same_place(tensor, self.x), mine, *sizes
        return other, *(not each for each in alike)

    def is_given(self, call: ModelCall) -> bool:
        """Whether a call is given x as it was, and nothing else; only of a copy the numbers are looked at."""
        same = _same_place(call.x, self.x)
        if not call.is_plain or (same and self._version != _version(self.x)):
            return False
        return same or _equal(call.x, self.x)

    def is_aside(self, call: ModelCall) -> bool:
        """Whether a call has nothing to do with x: it is given another tensor of the batch, as it is or changed.

        Each call of a step is asked about once, in their order.
        """
        if not self.is_changed(call):
            return self.is_other(call)
        number, self.changed_calls = self.changed_calls, self.changed_calls + 1
        return number < len(self._asides) and self._asides[number]

    def is_other(self, call: ModelCall) -> bool:
        """Whether a call is given another tensor of the batch as it is."""
        return any(_same_place(call.x, other) for other in self._others)

    def is_changed(self, call: ModelCall) -> bool:
        """Whether a call is given something that does not lie in the batch."""
        return not (self.is_other(call) or _is_view(call.x, self.x))


def _version(tensor: Tensor) -> int | None:
    """How often it was written to; inference tensors do not count."""
    return None if tensor.is_inference() else tensor._version


def bound(model: nn.Module, arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]) -> nn.Module:
    """``model`` as a function of its input alone, called with the ``arguments`` for it; its parts are the same."""
    function = copy.copy(model)
    # What copies leave out is there, as the Trainer of a LightningModule, but what was compiled in place of all this.
    vars(function).update({**vars(model), "_compiled_call_impl": None})
    if isinstance(model, pl.LightningModule):
        vars(function)["log"] = partial(_log, model)
    # Its own mode is that of the function, which an attack puts in eval mode, and not the model's.
    own_forward = model.forward if "forward" in vars(model) else partial(type(model).forward, function)

    def forward(x: Tensor) -> Any:
        args, kwargs = arguments(x)
        return own_forward(*args, **kwargs)

    function.forward = forward
    return function


def _log(module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
    """As ``module`` logs at that moment: it may be silenced meanwhile, see :func:`off_the_record`."""
    module.log(*args, **kwargs)


class StepWatch:
    """Looks at how a user's step calls ``model``, from :meth:`open` to :meth:`close`, and may change each call's input.

    Args:
        model: the module whose calls are looked at.
        given: what the input is recognised by among the arguments, see :meth:`ModelCall.found_in`.
        swap: called with each call of ``model``; what it returns takes the input's place, None: the call is left alone.
            Calls that it makes itself, or that are made while the watch is :meth:`paused`, are not looked at.

    Attributes:
        output: what the first call of ``model`` under gradients, of those not left alone, returned.
    """

    def __init__(
        self,
        model: nn.Module,
        given: GivenBatch,
        swap: Callable[[ModelCall], Tensor | None],
    ) -> None:
        self.model = model
        self.given = given
        self.swap = swap
        self.output: Any = None
        self._paused = False
        self._left_alone = False
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Begin to look."""
        self._handles = [
            self.model.register_forward_pre_hook(self._call, with_kwargs=True, prepend=True),
            self.model.register_forward_hook(self._keep_output),
        ]

    def close(self) -> None:
        """Look no more; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def outside(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``step``, in which each call of a model that was compiled in place is looked at before it runs."""

        def looked_at(batch: Any) -> Any:
            own: Any = self.model._compiled_call_impl

            def call(*args: Any, **kwargs: Any) -> Any:
                self._call(self.model, args, kwargs)
                return own(*args, **kwargs)

            self.model._compiled_call_impl = call
            try:
                return step(batch)
            finally:
                self.model._compiled_call_impl = own

        return looked_at

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls inside are not looked at."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _call(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = None if self._paused else ModelCall.found_in(args, kwargs, self.given)
        if call is None:
            return None
        with self.paused():
            x = self.swap(call)
        self._left_alone = x is None
        return None if x is None else call.arguments(x)

    def _keep_output(self, model: nn.Module, args: Any, output: Any) -> None:
        if self.output is None and not self._paused and not self._left_alone and torch.is_grad_enabled():
            self.output = output


def _have_rows(arguments: Any, samples: int) -> bool:
    """Whether a tensor among ``arguments`` has as many rows as there are ``samples``."""
    found = False

    def look(tensor: Tensor) -> Tensor:
        nonlocal found
        found = found or (tensor.ndim > 0 and len(tensor) == samples)
        return tensor

    apply_to_collection(arguments, Tensor, look, allow_frozen=True)
    return found


class _CalledError(BaseException):
    """Ends a step when it calls the model. Not an Exception, so that no handler in the step swallows it."""


@dataclass(frozen=True, eq=False)
class StepInput:
    """What a step gives the model.

    Attributes:
        call: the call that gives it something else than the batch's own x; None where it gives x.
        called: whether the step calls the model itself, rather than its submodules.
        idle: whether it calls no module at all, as one that skips the batch.
        in_parts: whether it calls submodules, of which the first with parameters gets what the model gives it.
        aside: whether it was given another tensor of the batch than x, in each of its calls.
        twice: whether an earlier call without gradients was given the same.
    """

    call: ModelCall | None
    called: bool
    idle: bool = False
    in_parts: bool = False
    aside: bool = False
    twice: bool = False


def input_of_step(
    model: nn.Module,
    name: str,
    step: Callable[[Any], Any],
    batch: Any,
    x: Tensor,
    *,
    whole: nn.Module,
    step_name: str = "training_step",
    asides: Sequence[bool] = (),
) -> StepInput:
    """How a step calls ``model`` on the samples whose x and labels the attack knows.

    The step is run up to that call, on a copy of the batch; random state and buffers are afterwards as before. Calls
    before it that are given other tensors of the batch, or run without gradients where the step has them, are not meant
    unless there is no other. A step that never calls the model itself, but its submodules, must give the first layer
    what the model gives it, and is run to its end.

    Args:
        model: what is attacked.
        name: what messages call it.
        step: the step as a function of the batch.
        batch: the batch.
        x: its inputs.
        whole: whose buffers are put back: the LightningModule, or the model alone.
        step_name: what messages call the step.
        asides: see :class:`GivenBatch`.

    Raises:
        MisconfigurationException: if the step never calls the model, and changes x before its first layer sees it; or
            if it calls the model on other samples, or on integers.
    """
    copied, own = _copied_batch(batch, x)
    seen, error = _calls_in(model, lambda: step(copied), GivenBatch(copied, own, asides), whole), None
    if not seen.called and seen.first_layer is not None:
        try:
            if _equal(seen.first_layer, _first_given(model, x, whole)):
                return StepInput(None, called=False, in_parts=True)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as raised:
            error = raised
    if seen.call is not None and not seen.call.guessed:
        plain = seen.call.is_plain and _equal(seen.call.x, x)
        twice = any(_same_place(each.x, seen.call.x) for each in seen.before)
        return StepInput(None if plain else seen.call, called=True, aside=seen.aside, twice=twice)
    if seen.called or seen.first_layer is not None:
        raise MisconfigurationException(_why_not(seen, name, step_name, x, error)) from error
    return StepInput(None, called=False, idle=seen.idle)


def _why_not(seen: _Seen, name: str, step_name: str, x: Tensor, error: Exception | None) -> str:
    """Why it is not known what a step gives the model, or cannot be attacked."""
    if seen.call is not None:
        return (
            f"{step_name} gives {name}, which is attacked, several floating tensors with a row for each sample, "
            "none of which is x, a view of it, or like it in shape, numbers or dimensions: name the module that "
            "takes the input alone by backbone=..., or give the input itself by batch_fn=..."
        )
    if seen.called and not x.is_floating_point():
        return (
            f"{step_name} gives {name}, which is attacked, inputs of {x.dtype}, which cannot be perturbed: name the "
            "module that is given floating ones by backbone=..., such as what lies behind an embedding, or convert "
            "the batch before"
        )
    if seen.called:
        return (
            f"{step_name} never gives {name}, which is attacked, the {len(x)} samples of the batch, but others (joined "
            "views, crops or several batches): name the module that takes them themselves by backbone=..., or the "
            "samples that it is given by batch_fn=..."
        )
    if error is not None:
        return (
            f"{step_name} never calls {name}, which is attacked, and its forward does not take x ({error}): name "
            "the module that maps x to logits by backbone=..."
        )
    return (
        f"{step_name} changes x before its first layer sees it, and never calls {name}, which is attacked: "
        "name the module that it gives the changed x to by backbone=..."
    )


def calls_aside(
    model: nn.Module, step: Callable[[Any], Any], batch: Any, x: Tensor, whole: nn.Module
) -> tuple[bool, ...]:
    """Of each call of ``model`` that a step gives something changed, whether that does not depend on x.

    The step is run twice to its end, the second time with the samples of x in another order; random state and buffers
    are afterwards as before. Only for a batch that holds further tensors that could be inputs: nothing is known of
    others, nor where the second run fails, or calls the model more or less often.

    Args:
        model: what is attacked.
        step: the step as a function of the batch.
        batch: the batch.
        x: its inputs.
        whole: the LightningModule, of which the model may be a part.
    """
    turned = x.roll(1, 0)
    if not (x.is_floating_point() and GivenBatch(batch, x).has_others) or torch.equal(turned, x):
        return ()

    def inputs(other: Tensor) -> list[Tensor]:
        copied, own = _copied_batch(batch, x)
        own.copy_(other)
        found: list[Tensor] = []
        given = GivenBatch(copied, own)

        def note(call: ModelCall) -> None:
            if given.is_changed(call):
                found.append(call.x.detach().clone())

        watch = StepWatch(model, given, note)
        with _leaving_no_trace(whole):
            watch.open()
            try:
                step(copied)
            finally:
                watch.close()
        return found

    given = inputs(x)
    if len(given) < 2:  # then it is x's
        return ()
    try:
        changed = inputs(turned)
    except Exception:  # noqa: BLE001  # the step expects x and the rest of the batch to fit
        return ()
    return tuple(map(_equal, given, changed)) if len(given) == len(changed) else ()


def _copied_batch(batch: Any, x: Tensor) -> tuple[Any, Tensor]:
    """A copy of the batch, which a step may write to, and of x, which is in it where x is in the batch."""
    own = x.clone()
    return apply_to_collection(batch, Tensor, lambda tensor: own if tensor is x else tensor.clone()), own


def _first_given(model: nn.Module, x: Tensor, whole: nn.Module) -> Tensor | None:
    """What the first module with parameters is given when ``model`` gets x."""
    own = x.clone()
    return _calls_in(model, lambda: model(own), GivenBatch(own, own), whole, until_called=False).first_layer


class ValidationInput:
    """What ``validation_step`` feeds to the model: the step of each batch is run up to the call of the model.

    It runs in eval mode, and neither what it logs nor what it gives the module's metrics counts. Where it calls no
    model itself, but other modules, only the first batch is looked at. A batch that it does not give to the model is
    passed over if it gives it others, else taken as it is.

    Args:
        module: the module that is validated.
        target: what is attacked.
    """

    def __init__(self, module: pl.LightningModule, target: Target) -> None:
        self._module = module
        self._model = target.model(module)
        self._name = target.backbone or type(module).__name__
        self._call: ModelCall | None = None
        self._called = self._taken_as_it_is = False
        self._looks = is_overridden("validation_step", module)

    @property
    def model(self) -> nn.Module:
        """The model as a function of its input alone, with the other arguments that the last batch's step gives it."""
        if self._call is None or self._call.is_plain:
            return self._model
        return bound(self._model, self._arguments)

    def of(self, batch: Any, x: Tensor, *numbers: int) -> Tensor | None:
        """What the model is given for ``batch``.

        Args:
            batch: a batch that no step has seen, as it may change it.
            x: its inputs.
            numbers: the further arguments of the hooks of validation: ``batch_idx``, and ``dataloader_idx`` where
                there are several dataloaders.

        Returns:
            The model's input ``[N, ...]``; None: the step skips this batch.

        Raises:
            MisconfigurationException: see :func:`input_of_step`; or if the step skipped earlier batches, which were
                taken as they are, and changes this one.
        """
        if not self._looks:
            return x

        def step(batch: Any) -> Any:
            takes_numbers = is_param_in_hook_signature(self._module.validation_step, "batch_idx", min_args=2)
            return self._module.validation_step(batch, *(numbers if takes_numbers else numbers[1:]))

        # Not in inference mode, whose tensors no gradient can be taken through.
        with evaluating(self._module), torch.inference_mode(False), torch.no_grad(), off_the_record(self._module):
            where = {"batch": batch, "x": x, "whole": self._model}
            seen = input_of_step(self._model, self._name, step, step_name="validation_step", **where)
        if self._called and not (seen.called or seen.in_parts):
            return None
        self._call, self._looks = seen.call, self._called or seen.called or seen.idle
        self._called = self._called or seen.called
        self._taken_as_it_is = self._taken_as_it_is or seen.idle
        if self._call is not None and self._taken_as_it_is:
            msg = (
                f"validation_step gives {self._name}, which is attacked, something else than x, and skipped batches "
                "before, which were measured as they are: expected it to give the model the first batch of a "
                "validation run too"
            )
            raise MisconfigurationException(msg)
        return x if self._call is None else self._call.x.detach()

    def _arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((x,), {}) if self._call is None else self._call.arguments(x)


@contextmanager
def off_the_record(module: pl.LightningModule) -> Iterator[None]:
    """What ``module`` logs inside is forgotten, its metrics count nothing, and its plain attributes are put back.

    Those are numbers, texts, tensors (the same ones, whatever is written into them), and what lists, dicts, sets and
    deques hold, as the outputs of steps that are kept for the end of an epoch.
    """
    own = {name: value for name, value in vars(module).items() if name == "log"}
    vars(module)["log"] = lambda *_, **__: None  # log_dict calls it too
    metrics = {metric: dict(vars(metric)) for metric in _metrics_of(module)}
    for metric in metrics:
        vars(metric).update({name: _copied(state) for name, state in metric.metric_state.items()})
    plain = {name: value for name, value in vars(module).items() if _is_plain(name, value)}
    held = {name: copy.copy(value) for name, value in plain.items() if isinstance(value, _CONTAINERS)}
    try:
        yield
    finally:
        del vars(module)["log"]
        vars(module).update(own)
        for metric, before in metrics.items():
            vars(metric).update(before)
        for name in [name for name, value in vars(module).items() if name not in plain and _is_plain(name, value)]:
            del vars(module)[name]
        vars(module).update(plain)
        for name, content in held.items():
            plain[name].clear()
            (plain[name].extend if isinstance(content, list | deque) else plain[name].update)(content)


_CONTAINERS = (list, dict, set, deque)


def _is_plain(name: str, value: Any) -> bool:
    """Whether an attribute is a user's own, and of a kind that can be put back."""
    kinds = (int, float, str, Tensor, type(None))
    return name not in _OF_ANY_MODULE and (isinstance(value, kinds) or type(value) in _CONTAINERS)


_OF_ANY_MODULE = frozenset(vars(pl.LightningModule())) | {"log", "_log_hyperparams", "_hparams", "_hparams_initial"}


def _metrics_of(module: nn.Module) -> list[Metric]:
    """The metrics in a module; in each step, so it goes through its parts without their names."""
    parts, seen, found = [module], {id(module)}, []
    while parts:
        part = parts.pop()
        if isinstance(part, Metric):
            found.append(part)
        new = [child for child in part._modules.values() if child is not None and id(child) not in seen]
        seen.update(map(id, new))
        parts.extend(new)
    return found


def _copied(state: Any) -> Any:
    return state.clone() if isinstance(state, Tensor) else list(state)


@dataclass(eq=False)
class _Seen:
    """What a run shows.

    Attributes:
        call: the call of the model.
        called: whether it was called at all.
        idle: whether no module was called at all.
        aside: whether that call has nothing to do with x, as all others.
        first_layer: what the first module with parameters was given.
        before: calls before it, that are not meant.
    """

    call: ModelCall | None = None
    called: bool = False
    idle: bool = True
    aside: bool = False
    first_layer: Tensor | None = None
    before: list[ModelCall] = field(default_factory=list)


def _calls_in(
    model: nn.Module,
    run: Callable[[], Any],
    given: GivenBatch,
    whole: nn.Module,
    *,
    until_called: bool = True,
) -> _Seen:
    """How ``run`` calls ``model``, at which it ends, and what the first module with parameters is given."""
    seen, with_gradients = _Seen(), torch.is_grad_enabled()
    asides: list[bool] = []

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = ModelCall.found_in(args, kwargs, given)
        if module is model and until_called:
            seen.called = True
            if call is None:
                seen.call = None
                return
            aside = given.is_aside(call)
            if not aside and (torch.is_grad_enabled() or not with_gradients):
                seen.call = call
                raise _CalledError
            seen.before.append(call)
            asides.append(aside)
            return
        if seen.first_layer is None and call is not None and next(module.parameters(recurse=False), None) is not None:
            seen.first_layer = call.x.detach().clone()

    def note(*_: object) -> None:
        seen.idle = False

    modules = hookable_modules(model)
    handles = [module.register_forward_pre_hook(see, with_kwargs=True, prepend=True) for module in modules]
    handles.append(register_module_forward_pre_hook(note))
    try:
        with suppress(_CalledError), _leaving_no_trace(whole):
            run()
    finally:
        for handle in handles:
            handle.remove()
    if seen.call is None and seen.before:
        seen.call, seen.aside = seen.before.pop(0), asides[0]
    return seen


@contextmanager
def _leaving_no_trace(whole: nn.Module) -> Iterator[None]:
    """Random state and buffers are afterwards as before; hooks see all calls, as those of a compiled model."""
    device = next(whole.parameters(), torch.zeros(())).device
    with (
        torch.compiler.set_stance("force_eager"),
        preserved_random_state(device),
        scratch_buffers(whole),
        reentrance_off(),
    ):
        yield


def _equal(x: Tensor, other: Tensor | None) -> bool:
    return other is not None and x.dtype == other.dtype and x.shape == other.shape and bool((x == other).all())
