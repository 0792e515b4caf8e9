"""What a user's step feeds to the model, which need not be the batch's x: it may be normalised or augmented before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lsa_lightning.steps.given_batch import GivenBatch, copied_batch, equal, input_in, same_place, version
from lsa_lightning.steps.model_call import ModelCall, Place
from lsa_lightning.steps.own_call import OwnCall
from lsa_lightning.steps.own_parts import FirstLayer, OwnParts
from lsa_lightning.utils.isolation import (
    RandomState,
    hookable_modules,
    preserved_random_state,
    reentrance_off,
    scratch_buffers,
)


class _CalledError(BaseException):
    """Ends a step when it calls the model. Not an Exception, so that no handler in the step swallows it."""


@dataclass(frozen=True, eq=False)
class StepInput:
    """What a step gives the model.

    Attributes:
        call: the call that gives it something else than the batch's own x; None where it gives x.
        called: whether the step calls the model itself, rather than its submodules.
        idle: whether it calls no module at all, as one that skips the batch.
        first_layer: where it calls submodules, the first layer, which gets what the model gives it; else None.
        aside: whether it was given another tensor of the batch than x, in each of its calls.
        twice: whether an earlier call without gradients was given the same.
    """

    call: ModelCall | None
    called: bool
    idle: bool = False
    first_layer: FirstLayer | None = None
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
    asides: Mapping[Place, bool] | None = None,
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
    copied, own = copied_batch(batch, x)
    seen, error = _calls_in(model, lambda: step(copied), GivenBatch(copied, own, asides), whole), None
    if not seen.called and seen.has_layers:
        try:
            first = _first_given_x(model, step, batch, x, whole)
            if first is not None:
                return StepInput(None, called=False, first_layer=first)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as raised:
            error = raised
    if seen.call is not None and not seen.call.guessed:
        plain = seen.call.is_plain and equal(seen.call.x, x)
        twice = any(same_place(each.x, seen.call.x) and then == version(seen.call.x) for each, then in seen.before)
        return StepInput(None if plain else seen.call, called=True, aside=seen.aside, twice=twice)
    if seen.called or seen.has_layers:
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
        f"{step_name} never calls {name}, which is attacked, but gives x, or what it makes of x, to other modules: "
        "name the module that it gives it to by backbone=..."
    )


def calls_aside(
    model: nn.Module, step: Callable[[Any], Any], batch: Any, x: Tensor, whole: nn.Module
) -> dict[Place, bool] | None:
    """Of each call of ``model`` in a step, by its place (see :class:`GivenBatch`), whether it does not depend on x.

    The step is run to its end, and where it makes several calls once more, with the samples of x in another order (of
    one sample, its numbers); random state and buffers are afterwards as before.

    Args:
        model: what is attacked.
        step: the step as a function of the batch.
        batch: the batch.
        x: its inputs.
        whole: the LightningModule, of which the model may be a part.

    Returns:
        None where nothing is known: the batch holds no further tensors that could be inputs, its x is 0, or the second
        run fails.
    """
    others = (other for other in (x.roll(1, 0), x.roll(1, -1), x / 2) if not torch.equal(other, x))
    turned = next(others, None) if x.is_floating_point() and GivenBatch(batch, x).has_others else None
    if turned is None:
        return None

    def inputs(other: Tensor) -> dict[Place, Tensor | None]:
        copied, own = copied_batch(batch, x)
        own.copy_(other)
        found: dict[Place, Tensor | None] = {}
        given = GivenBatch(copied, own)

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = given.of_model(args, kwargs)
            tensor = input_in(args, kwargs) if call is None else call.x
            if given.latest is not None:
                found[given.latest] = None if tensor is None else tensor.detach().clone()

        handle = model.register_forward_pre_hook(note, with_kwargs=True, prepend=True)
        try:
            with _leaving_no_trace(whole):
                step(copied)
        finally:
            handle.remove()
        return found

    given = inputs(x)
    if len(given) < 2:
        return dict.fromkeys(given, False)
    try:
        changed = inputs(turned)
    except Exception:  # noqa: BLE001  # the step expects x and the rest of the batch to fit
        return None
    return {place: each is not None and equal(each, changed.get(place)) for place, each in given.items()}


def _first_given_x(
    model: nn.Module, step: Callable[[Any], Any], batch: Any, x: Tensor, whole: nn.Module
) -> FirstLayer | None:
    """The first layer of ``model``; None where the step never gives it what the model makes of x for it."""
    with _leaving_no_trace(whole):
        found = FirstLayer.of(model, x)
    # A frozen one may be called without gradients.
    for first in (*found, *(replace(each, graded=False) for each in found if each.graded)):
        copied, own = copied_batch(batch, x)
        given = OwnCall(GivenBatch(copied, own), RandomState(x.device))
        with _leaving_no_trace(whole), OwnParts(given, first, model).waiting():
            step(copied)
        if given.came:
            return first
    return None


@dataclass(eq=False)
class _Seen:
    """What a run shows.

    Attributes:
        call: the call of the model.
        called: whether it was called at all.
        idle: whether no module was called at all.
        aside: whether that call has nothing to do with x, as all others.
        has_layers: whether a module with parameters was called.
        before: calls before it, that are not meant, each with the version that its input had.
    """

    call: ModelCall | None = None
    called: bool = False
    idle: bool = True
    aside: bool = False
    has_layers: bool = False
    before: list[tuple[ModelCall, int | None]] = field(default_factory=list)


def _calls_in(
    model: nn.Module,
    run: Callable[[], Any],
    given: GivenBatch,
    whole: nn.Module,
) -> _Seen:
    """How ``run`` calls ``model``, at which it ends."""
    seen, with_gradients = _Seen(), torch.is_grad_enabled()

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is model:
            call = given.of_model(args, kwargs)
            seen.called = True
            if call is None:
                seen.call = None
                return
            if not given.is_aside(call) and (torch.is_grad_enabled() or not with_gradients):
                seen.call = call
                raise _CalledError
            seen.before.append((call, version(call.x)))
            return
        if not seen.has_layers and next(module.parameters(recurse=False), None) is not None:
            seen.has_layers = given.call(args, kwargs) is not None

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
        seen.call, _ = seen.before.pop(0)
        seen.aside = given.is_aside(seen.call)
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
