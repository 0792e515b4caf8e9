"""A user's training step, run on adversarial examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lsa_lightning.attacks.checks import Checks
from lsa_lightning.layers.probe import takes_hooks
from lsa_lightning.steps.both_passes import BothPasses, not_called
from lsa_lightning.steps.capture import NoCapture
from lsa_lightning.steps.first_look import StepInput, calls_aside, input_of_step
from lsa_lightning.steps.given_batch import GivenBatch, version
from lsa_lightning.steps.kept_state import parameters_put_back, parameters_stay
from lsa_lightning.steps.loss_check import LossCheck
from lsa_lightning.steps.model_call import ModelCall, Place, bound
from lsa_lightning.steps.own_call import ChangedInputError, OwnCall
from lsa_lightning.steps.own_parts import OwnParts
from lsa_lightning.steps.request import Craft, Passes, StepRequest, loss_of
from lsa_lightning.steps.watch import StepWatch
from lsa_lightning.utils.batch import replace_tensor
from lsa_lightning.utils.isolation import RandomState, is_compiled, reentrance_off

T = TypeVar("T")


_MOST_LOOKS = 3
"""How often it is tried to see which calls of a step depend on x, where that shows nothing."""


class AdversarialStep:
    """Runs a user's ``training_step`` on adversarial examples.

    What is attacked must be what the step feeds to the model, which the first batch shows: its step is begun twice, the
    first time only up to that point. Where it is the batch's own x, the batch is crafted before the step, which then
    gets it in place of its own. Where the step changes x before (normalises or augments it), or gives the model more
    than x, the examples are crafted inside of it, when it calls the model; in each step from the first one on that does
    so, which is begun once more. Calls with other tensors of the batch (inputs without labels), or without gradients
    before those with, are left alone.

    The first batch also shows whether the loss that the step returns is computed from what the attack takes for logits,
    and for the labels of the batch.

    Args:
        model: what is attacked.
        name: what messages call it.
        whole: the LightningModule, of which the model may be a part; None: the model.
        on_clean: whether the step runs on the clean batch; else on the adversarial one.
        read_logits: reads logits out of what ``model`` returns.
        check_labels: whether the loss is looked at; not where the attack has a loss of its own.
        quietly: inside, what the model's passes log or count does not count.

    Attributes:
        at_model: whether the examples are crafted when the step calls the model; a resumed run must know.
        given: what the latest step gave the model, before it was crafted: the model as a function of its input alone,
            and that input; None where no step has called it yet.

    Raises:
        MisconfigurationException: at the first batch, if the step never calls ``model`` and changes x, or the loss does
            not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        whole: nn.Module | None = None,
        on_clean: bool,
        read_logits: Callable[[Any], Tensor],
        check_labels: bool = True,
        quietly: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model = model
        self.name = name
        self.whole = model if whole is None else whole
        self.on_clean = on_clean
        self.read_logits = read_logits
        self.quietly = quietly
        self.at_model = False
        self.given: tuple[nn.Module, Tensor] | None = None
        self._looked = False
        self._first = StepInput(None, called=False, idle=True)
        self._asides: dict[Place, bool] = {}
        self._looks_left = _MOST_LOOKS
        self._watch: StepWatch | None = None
        self._checks = Checks()
        self._loss_check = LossCheck(name, read_logits, self._checks, wanted=check_labels)
        self._both = BothPasses(model, name, on_clean=on_clean, read_logits=read_logits, quietly=quietly)

    def settle(self) -> None:
        """Wait for what is still to be said about the labels of earlier batches.

        Raises:
            MisconfigurationException: if the loss of one does not fit.
        """
        self._checks.settle()

    def close(self) -> None:
        """After the backward pass, which may run the model again (checkpointing)."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Calls of the model inside are not the step's: they get what they are given, and log nothing."""
        with nullcontext() if self._watch is None else self._watch.paused(), self.quietly():
            yield

    def look(self, step: Callable[[Any], Any], batch: Any, x: Tensor) -> tuple[nn.Module, Tensor]:
        """See on the first batch what the step feeds to the model.

        Args:
            step: the user's step as a function of the batch.
            batch: the batch.
            x: its inputs.

        Returns:
            The model as a function of its input alone, and such an input, from this or from the first batch.
        """
        if not self._looked:
            seen = partial(input_of_step, self.model, self.name, step, batch, x, whole=self.whole)
            self._first = self._leaving_no_trace(seen)
            if self._first.call is not None:  # else x itself is waited for, and no other call matters
                self._see_asides(step, batch, x)
                if any(self._asides.values()):
                    self._first = self._leaving_no_trace(partial(seen, asides=self._asides))
            self.at_model = self.at_model or self._first.call is not None
        call = self._first.call
        return (self.model, x) if call is None else (bound(self.model, call.arguments), call.x.detach())

    def _see_asides(self, step: Callable[[Any], Any], batch: Any, x: Tensor) -> None:
        """See which calls of the step depend on x.

        Raises:
            MisconfigurationException: if some that were seen before do so otherwise now.
        """
        found = self._leaving_no_trace(partial(calls_aside, self.model, step, batch, x, self.whole))
        if found is None:
            self._looks_left -= 1
            return
        in_turn = {lines for lines, number in found if number > 0}
        for place, aside in found.items():
            before = self._asides.setdefault(place, aside)
            if before != aside and place[0] in in_turn:
                raise self._shifted()
            self._asides[place] = before and aside  # what ever depends on x is attacked

    def _leaving_no_trace(self, look: Callable[[], T]) -> T:
        with self.quietly(), parameters_put_back(self.whole):
            return look()

    def run(self, asked: StepRequest, *, checked: bool = True) -> Passes:
        """Run both passes.

        Args:
            asked: the step.
            checked: False where another wrapper lies between this one and the user's step, and changes x itself.

        Returns:
            What they gave; no representations where the step skipped the batch.
        """
        self.close()
        first = not self._looked
        if first:
            asked = replace(asked, craft=self._while_parameters_stay(asked.craft))
        self._checks.begin(self.model, asked.x.device)
        watched = (first and checked) or asked.with_output
        # A target that is the input too must stay as it is.
        self.at_model = self.at_model or (asked.y is asked.x and self._first.called)
        try:
            passes, output = self._inside(asked) if self.at_model else self._on_batch(asked, watched, checked)
        except ChangedInputError as changed:
            changed.before.restore()
            self.at_model = True
            self._see_asides(asked.step, asked.batch, asked.x)
            passes, output = self._inside(asked)
        self._looked = self._looked or self._first.called or loss_of(passes.result) is not None
        if checked:
            self._loss_check.of_step(loss_of(passes.result), output, asked.y, first=first, mixed=self.at_model)
        self._checks.passed(self.model)
        in_parts = self._first.first_layer is not None  # whose output is known in the first step alone
        return replace(passes, output=output) if asked.with_output and not in_parts else passes

    def _on_batch(self, asked: StepRequest, watched: bool, checked: bool) -> tuple[Passes, Any]:
        """The batch is crafted, and the step gets it; also the model's output in the step, if that is ``watched``.

        Raises:
            ChangedInputError: if the step gives the model something else.
        """
        x = asked.x
        self.given = (self.model, x)
        x_adv = asked.craft(self.model, x, asked.y)
        # A step that writes to x, and is begun once more for that, must find it as it was.
        stepped_on, other = (x.clone(), x_adv) if self.on_clean else (x_adv, x)
        batch = replace_tensor(asked.batch, x, stepped_on, first=asked.y is x)
        looks = checked and takes_hooks(self.model)
        given = GivenBatch(batch, stepped_on, self._asides)
        own = OwnCall(given, RandomState(x.device)) if looks else None
        watch = StepWatch(self.model, given, own or _unchanged)
        covered = not watched and bool(asked.layers) and self._both.can_run_compiled(asked.layers)
        # Hooks of a model that was compiled in place, and of no other, would be a part of what is compiled.
        in_place = self.model._compiled_call_impl is not None
        runs_compiled = in_place and (covered or not (watched or asked.layers))
        if looks and runs_compiled:
            asked = replace(asked, step=watch.outside(asked.step))
        if covered:
            return self._both.run_compiled(asked, batch, other), None
        parts = self._parts(own, eager=watched or bool(asked.layers))

        def run_step(capture: NoCapture) -> Any:
            if own is not None and self._first.called:
                own.capture = capture
                return asked.step(batch)
            capture.begin()
            if parts is not None:
                return parts.run(partial(asked.step, batch), self.name, capture)
            with nullcontext() if own is None else own.unless_parts_come(self.model):
                return asked.step(batch)

        def run(*, again: bool = False) -> Any:
            watch.close()
            # Some models normalise what they are given in place.
            return self.model((stepped_on if again else other).clone())

        with _looking() if watched else reentrance_off() if looks else nullcontext():
            try:
                if watched or (looks and not runs_compiled):
                    watch.open()
                passes = self._both.run(asked, run_step, run, learns=not asked.with_output)
            finally:
                watch.close()
            if watch.output is not None or parts is None:
                return passes, watch.output
            return passes, _in_graph(parts.outputs(), loss_of(passes.result))

    def _parts(self, own: OwnCall | None, *, eager: bool) -> OwnParts | None:
        """What waits for the first layer, in a step that calls parts of the model; compiled ones would not see it."""
        first = self._first.first_layer
        if own is None or first is None or not (eager or not any(map(is_compiled, self.model.modules()))):
            return None
        return OwnParts(own, first, self.model, quietly=self.quietly, keep_outputs=not self._looked)

    def _inside(self, asked: StepRequest) -> tuple[Passes, Any]:
        """The examples are crafted when the step calls the model, from what it is given; also the model's output."""
        partners: dict[tuple[Any, ...], Tensor] = {}
        calls: list[ModelCall] = []
        capture = NoCapture()
        given, stepping = GivenBatch(asked.batch, asked.x, self._asides), True
        before = RandomState(asked.x.device) if given.has_others else None

        def swap(call: ModelCall) -> Tensor | None:
            place = (call.x.data_ptr(), call.x.shape, call.x.stride(), version(call.x))  # a step may write to x between
            if place not in partners:
                if not stepping or (not torch.is_grad_enabled() and not self._first.twice):
                    return None
                if before is not None and not given.knows(call) and self._looks_left:
                    self._look_again(call, given, before, asked)
                if given.is_aside(call) and not self._first.aside:
                    return None
                partners[place] = self._partner(call, asked)
                if not calls:
                    self.given = self._as_given(call)
                    capture.begin(called=True)
                calls.append(call)  # keeps its input alive, so that no other tensor comes to lie in its place
            return call.x if self.on_clean else partners[place]

        def run_step(given_capture: NoCapture) -> Any:
            nonlocal capture, stepping
            capture = given_capture
            result, stepping = asked.step(asked.batch), False
            if loss_of(result) is not None:
                self._check_calls(given, bool(calls))
            return result

        def run(*, again: bool = False) -> Any:
            adversarial = next(iter(partners.values()))
            args, kwargs = calls[0].arguments((calls[0].x if self.on_clean == again else adversarial).clone())
            with watch.paused():
                return self.model(*args, **kwargs)

        # Open until the backward pass is over, in which checkpointing calls the model with the step's own input again.
        self._watch = watch = StepWatch(self.model, given, swap)
        watch.open()
        with _looking():
            return self._both.run(asked, run_step, run), watch.output

    def _look_again(self, call: ModelCall, given: GivenBatch, before: RandomState, asked: StepRequest) -> None:
        """In the middle of a step that makes a call which it was not seen to make, see whether that depends on x.

        Raises:
            MisconfigurationException: if the step, begun once more from there, does not make that call.
        """
        now, left = RandomState(asked.x.device), self._looks_left
        before.restore()
        try:  # whatever the call lies in: no_grad, or checkpointing, which would count these tensors
            with torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
                self._see_asides(asked.step, asked.batch, asked.x)
        finally:
            now.restore()
        given.asides = self._asides
        if not given.knows(call) and left == self._looks_left:
            msg = (
                f"training_step gives {self.name}, which is attacked, something that may not depend on x, in a call "
                "that it does not make when it is begun once more: name the module that is given x alone by "
                "backbone=..., or leave inputs without labels as they are in the batch"
            )
            raise MisconfigurationException(msg)

    def _while_parameters_stay(self, craft: Craft) -> Craft:
        def watched(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with parameters_stay(self.model, self.name):
                return craft(model, x, y)

        return watched

    def _check_calls(self, given: GivenBatch, crafted: bool) -> None:
        """Whether a step has called the model on x, and on what does not depend on x where it was seen to do so."""
        if given.has_shifted:
            raise self._shifted()
        if not crafted:
            raise not_called(self.name)

    def _shifted(self) -> MisconfigurationException:
        msg = (
            f"training_step gives {self.name}, which is attacked, x and inputs that do not depend on x in one line, "
            "where they are known by their order: expected as many calls there in each step, in the same order, got "
            "others; call it in a line of its own for each, or leave those inputs as they are in the batch"
        )
        return MisconfigurationException(msg)

    def _partner(self, call: ModelCall, asked: StepRequest) -> Tensor:
        """The adversarial partner of a call's input."""
        if any(isinstance(leaf, nn.Parameter) for leaf in _leaves(call.x)):
            msg = (
                f"what training_step gives to {self.name} is computed from x by trainable parameters: name the module "
                "that takes x itself by backbone=..., or, of an embedding, what lies behind it, and freeze that one"
            )
            raise MisconfigurationException(msg)
        # Checkpointing, if it is on, must not count the attack's tensors.
        with saved_tensors_hooks(_as_it_is, _as_it_is):
            x_adv = asked.craft(*self._as_given(call), asked.y)
        # A step that takes gradients of its own input finds it in the graph.
        return x_adv + (call.x - call.x.detach()) if call.x.requires_grad else x_adv

    def _as_given(self, call: ModelCall) -> tuple[nn.Module, Tensor]:
        """The model as a function of its input alone, and the input of a call."""
        return (self.model if call.is_plain else bound(self.model, call.arguments)), call.x.detach()


@contextmanager
def _looking() -> Iterator[None]:
    """Inside, models run so that hooks see them, and that gradients can be taken of what they return."""
    with torch.compiler.set_stance("force_eager"), reentrance_off():
        yield


def _in_graph(outputs: list[Tensor], loss: Tensor | None) -> Tensor | None:
    """The first of them that the loss is computed from."""
    if loss is None or not loss.requires_grad:
        return None
    gradients = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True) if outputs else ()
    return next((each for each, gradient in zip(outputs, gradients, strict=True) if gradient is not None), None)


def _unchanged(call: ModelCall) -> Tensor:
    return call.x


def _leaves(x: Tensor) -> list[Any]:
    """What a tensor is computed from that requires a gradient."""
    nodes, seen, found = [x.grad_fn], set(), []
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        nodes += [following for following, _ in node.next_functions]
    return found


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
