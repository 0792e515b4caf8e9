"""Attacks that are made of others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lsa_lightning.attacks.base import Attack


class CompositeAttack(Attack):
    """Runs other attacks, which hold the random numbers: whatever is asked of it is asked of each of them.

    Attributes:
        attacks: the attacks by name.
    """

    attacks: dict[str, Attack]

    @property
    def needs_classes(self) -> bool:
        """Whether one of its attacks does."""
        return any(attack.needs_classes for attack in self.attacks.values())

    @property
    def reach(self) -> float:
        """The farthest of its attacks'."""
        return max(attack.reach for attack in self.attacks.values())

    def with_eps(self, eps: float) -> Self:
        """A copy whose attacks all have another ``eps``."""
        return super().with_eps(eps)._of_each(lambda attack: attack.with_eps(eps))

    @contextmanager
    def _scaling(self, factor: float) -> Iterator[None]:
        """Inside, each of its attacks has ``factor`` times its radius and step size."""
        threat = self.threat
        with ExitStack() as stack:
            for attack in self.attacks.values():
                stack.enter_context(attack._scaling(factor))
            self.threat = threat.with_eps(factor * self.eps)
            try:
                yield
            finally:
                self.threat = threat

    def restart(self) -> None:
        """Let each of its attacks draw its random numbers from the beginning again."""
        super().restart()
        for attack in self.attacks.values():
            attack.restart()

    def with_stream(self, stream: int) -> Self:
        """A copy whose attacks' random numbers depend on their seeds and on ``stream``."""
        return super().with_stream(stream)._of_each(lambda attack: attack.with_stream(stream))

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the attacks' generators, by attack and device."""
        states = {name: attack.state_dict() for name, attack in self.attacks.items()}
        return {f"{name}/{device}": state for name, by_device in states.items() for device, state in by_device.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the state that :meth:`state_dict` gave."""
        for name, attack in self.attacks.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            attack.load_state_dict(own)

    def __getstate__(self) -> dict[str, Any]:
        # A shallow copy has attacks of its own, too: neither draws from the generators of the other.
        return {**super().__getstate__(), "attacks": {name: copy.copy(attack) for name, attack in self.attacks.items()}}

    def _of_each(self, change: Callable[[Attack], Attack]) -> Self:
        """This attack, just copied, with its attacks replaced by changed ones."""
        self.attacks = {name: change(attack) for name, attack in self.attacks.items()}
        return self
