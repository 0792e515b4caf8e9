"""The user's step and the pass on the other batch, with what layers output in each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.layers.compiled import CompiledProbe
from lsa_lightning.layers.outputs import OUTPUT, output_view
from lsa_lightning.layers.probe import LayerProbe, by_sample
from lsa_lightning.steps.capture import Capture, NoCapture
from lsa_lightning.steps.kept_state import parameters_stay, warn_of_state
from lsa_lightning.steps.request import Passes, StepRequest, loss_of
from lsa_lightning.utils.isolation import RandomStateAtForward, scratch_buffers


class BothPasses:
    """Runs the user's step and, where layers are asked for, the model on the other batch, with the same random numbers.

    Args:
        model: what is attacked.
        name: what messages call it.
        on_clean: whether the step runs on the clean batch; else on the adversarial one.
        read_logits: reads logits out of what ``model`` returns.
        quietly: inside, what the model's passes log or count does not count.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        on_clean: bool,
        read_logits: Callable[[Any], Tensor],
        quietly: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.model = model
        self.name = name
        self.on_clean = on_clean
        self.read_logits = read_logits
        self.quietly = quietly
        self._compiled = CompiledProbe.of(model)
        self._looked = False

    def can_run_compiled(self, layers: list[str]) -> bool:
        """Whether earlier steps have shown that passes which return these layers can run compiled."""
        return self._compiled is not None and self._compiled.covers(layers)

    def run(
        self,
        asked: StepRequest,
        run_step: Callable[[NoCapture], Any],
        run_model: Callable[..., Any],
        *,
        learns: bool = False,
    ) -> Passes:
        """Both passes as they are written.

        Args:
            asked: the step.
            run_step: runs the step; tells its argument when the pass whose representations count is about to begin, or
                has just called the model.
            run_model: runs the model on the other input; with ``again=True`` on that of the step.
            learns: whether to see if such passes can run compiled.

        Returns:
            What they gave; no representations where the step skipped the batch.
        """
        layers = asked.layers
        if not layers:
            return Passes(run_step(NoCapture()), {}, {})
        for_penalty_alone = OUTPUT not in layers  # ends at the deepest layer, and leaves all buffers as they are
        samples, random_state = len(asked.x), RandomStateAtForward(self.model, asked.x.device)
        looks = not self._looked
        learning = self._compiled if learns and self._compiled is not None and not self._compiled.forbidden else None
        # A compiled model would not see the probe's hooks. The attack's passes stay compiled.
        with torch.compiler.set_stance("force_eager"):
            options: dict[str, Any] = {"sites": asked.sites, "needs_gradient": True, "read": self.read_logits}
            probe = LayerProbe(self.model, layers, samples, **options)
            # Both passes begin with the same buffers, as some models read what they have just written.
            with (
                Capture(self.model, probe, random_state, keeps_buffers=for_penalty_alone or looks) as capture,
                nullcontext() if learning is None else learning.watching(asked.x.device),
            ):
                result = run_step(capture)
            if loss_of(result) is None:
                return Passes(result, {}, {})
            own = captured(probe)
            if learning is not None:
                learning.learn(probe)

            def passed(buffers: AbstractContextManager[None], *, ends: bool, again: bool = False) -> dict[str, Tensor]:
                probe = LayerProbe(self.model, list(own), samples, ends, **{**options, "needs_gradient": not again})
                with random_state.replay(), buffers, probe, self.quietly():
                    run_model(again=again)
                return captured(probe)

            if looks:
                copies = {key: buffer.clone() for key, buffer in capture.buffers.items()}
                with torch.no_grad():
                    again = passed(scratch_buffers(self.model, copies), ends=True, again=True)
                warn_of_state(self.name, own, again)
                self._looked = True
            buffers = (
                scratch_buffers(self.model, capture.buffers, backward=True) if for_penalty_alone else nullcontext()
            )
            with parameters_stay(self.model, self.name) if looks else nullcontext():
                others = passed(buffers, ends=for_penalty_alone)
            return self._passes(result, own, others)

    def run_compiled(self, asked: StepRequest, batch: Any, other: Tensor) -> Passes:
        """As :meth:`run`, on a batch that is crafted, in compiled passes that return the representations.

        Args:
            asked: the step.
            batch: what it gets.
            other: the input of the other pass.

        Returns:
            What they gave.

        Raises:
            MisconfigurationException: if the step does not call the model.
        """
        assert self._compiled is not None, "asked of can_run_compiled before"
        with self._compiled.watching(asked.x.device), self._compiled.within_step() as stepped:
            result = asked.step(batch)
        if loss_of(result) is None:
            return Passes(result, {}, {})
        if not stepped:
            raise not_called(self.name)
        with self.quietly():
            alone = self._compiled.alone(other.clone())
        own, others = (
            {layer: by_sample(given[layer], len(asked.x)) for layer in asked.layers} for given in (stepped, alone)
        )
        return self._passes(result, own, others)

    def _passes(self, result: Any, own: dict[str, Tensor], others: dict[str, Tensor]) -> Passes:
        return Passes(result, own, others) if self.on_clean else Passes(result, others, own)


def captured(probe: LayerProbe) -> dict[str, Tensor]:
    """What ``probe`` captured.

    Raises:
        MisconfigurationException: if the model did not run, or not under gradients.
    """
    try:
        found = probe.captured if probe.ran else probe.representations
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    if any(output_view(probe.model, name) and name not in found for name in probe.layers):
        msg = (
            "expected training_step to call the model itself, whose output the objective or the penalty needs; it "
            "never ran: name the submodule that it calls by backbone=..."
        )
        raise MisconfigurationException(msg)
    return found


def not_called(name: str) -> MisconfigurationException:
    """The error of a step that does not call the model."""
    msg = f"expected training_step to call {name} in each step, as in an earlier one; here it did not"
    return MisconfigurationException(msg)


def both_representations(
    model: nn.Module, layers: list[str], x: Tensor, x_adv: Tensor, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What layers make of two inputs in passes of their own, with the same random numbers; buffers stay as they are.

    Args:
        model: the model, in train mode; left as it was.
        layers: names of layers; those that do not run are left out.
        x: inputs ``[N, ...]``.
        x_adv: their partners.
        options: of :class:`~lsa_lightning.layers.probe.LayerProbe`.
    """
    random_state = RandomStateAtForward(model, x.device)

    def representations(inputs: Tensor) -> dict[str, Tensor]:
        probe = LayerProbe(model, layers, len(inputs), stop_early=True, needs_gradient=True, **options)
        with scratch_buffers(model, backward=True), probe:
            model(inputs.clone())
        return captured(probe)

    with torch.compiler.set_stance("force_eager"):
        with random_state:
            clean = representations(x)
        with random_state.replay():
            adversarial = representations(x_adv)
    both = [name for name in clean if name in adversarial]
    return {name: clean[name] for name in both}, {name: adversarial[name] for name in both}
