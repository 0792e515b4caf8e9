r"""Inputs without labels for the layer-wise regularizer, which needs none.

:math:`CM(\phi_l(x), \phi_l(\hat x))` asks for no label if :math:`\hat x` is crafted against the model's own
prediction, as :class:`~lsa_lightning.attacks.TPGD` does. A source of your own is one class: subclass :class:`Source`.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lsa_lightning.attacks import TPGD, Attack
from lsa_lightning.attacks.base import Model
from lsa_lightning.attacks.input_space import AttackInSpace
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.utils import checks
from lsa_lightning.utils.batch import read_inputs
from lsa_lightning.utils.checks import flag, instance, integer, number, or_none, refuse, text
from lsa_lightning.utils.distributed import place
from lsa_lightning.utils.isolation import RandomState, seed_host_generators
from lsa_lightning.utils.random import Purpose, own_generator, seed_of


class Source(ABC):
    """Where unlabelled inputs come from. Subclasses write :meth:`draw`."""

    @abstractmethod
    def draw(self, x: Tensor) -> Tensor:
        """Inputs for one step, ``[M, ...]``, as the model takes them.

        Args:
            x: the inputs of the step's own batch, ``[N, ...]``, on whose device and of whose dtype they must be.
        """

    def restart(self) -> None:  # noqa: B027  # most sources keep nothing
        """Begin afresh; nothing here."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from: plain containers and tensors; nothing here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue with the checkpoint's; nothing here."""


class PartOfBatch(Source):
    """The last samples of the step's own batch, whose labels are not looked at.

    Args:
        share: share of the batch in (0, 1]; rounded up to whole samples.

    Raises:
        ValueError: if ``share`` is outside its range.

    Example:
        >>> PartOfBatch(0.5).draw(torch.arange(3.0).view(3, 1))
        tensor([[1.],
                [2.]])
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = number(self, "share", share, above=0, high=1)

    def draw(self, x: Tensor) -> Tensor:
        """The last ones."""
        rounding = 4 * sys.float_info.epsilon  # 0.07 * 100 is a little more than 7
        return x[len(x) - math.ceil(self.share * len(x) * (1 - rounding)) :]


class FromLoader(Source):
    """The batches of a dataloader, over and over; labels among them are not looked at.

    Each process of a distributed run takes its share of the batches. A sampler with ``set_epoch`` is told the number of
    the pass. What the loader draws from the global random generators (an order, augmentation) comes from a stream of
    its own, seeded by torch's initial seed; they are left alone themselves. A resumed run goes on in the same pass,
    behind as many batches as were taken from it.

    Args:
        loader: any iterable of batches that can be iterated again, or a ``LightningDataModule``.
        batch_fn: ``batch -> x``; default: the batch itself if it is a tensor, the first entry of a tuple or list, and
            what a mapping has under one of the usual keys (:func:`~lsa_lightning.utils.batch.read_inputs`).
        part: of a ``LightningDataModule``: the batches of its ``<part>_dataloader()``. ``"unlabelled"``: of ours, what
            ``train_size`` leaves of the training images, and fresh points of Moon.

    Raises:
        ValueError: if ``loader`` is neither or has no such part; when it is drawn from, if it gives no batch, or one
            that does not look like the step's own.

    Example:
        >>> source = FromLoader([torch.zeros(2, 3), torch.ones(2, 3)])
        >>> [float(source.draw(torch.zeros(1, 3)).mean()) for _ in range(3)]
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        loader: Iterable[Any] | pl.LightningDataModule,
        *,
        batch_fn: Callable[[Any], Tensor] | None = None,
        part: str = "train",
    ) -> None:
        if not isinstance(loader, Iterable | pl.LightningDataModule) or isinstance(loader, Tensor):
            refuse(self, "loader", "a dataloader or a LightningDataModule", loader)
        self.part = text(self, "part", part)
        if part != "train" and not hasattr(loader, f"{part}_dataloader"):
            refuse(self, "loader", f"a LightningDataModule with {part}_dataloader()", loader)
        self.loader = loader
        self.batch_fn: Callable[[Any], Tensor] = or_none(checks.function, self, "batch_fn", batch_fn) or read_inputs
        self._batches: Iterable[Any] | None = None
        self.restart()

    def restart(self) -> None:
        """From the first batch on."""
        self._taken, self._passes = 0, 0
        self._pass: Iterator[Any] | None = None
        self._random: RandomState | None = None  # for the next batch
        self._random_of_pass: RandomState | None = None  # when the pass began

    def draw(self, x: Tensor) -> Tensor:
        """The next batch."""
        with isolate_rng():
            if self._random is None:
                seed_host_generators(seed_of(torch.initial_seed(), Purpose.UNLABELLED_LOADER))
            else:
                self._random.restore()
            batch = self._next()
            self._random = RandomState(_CPU)
        inputs = self.batch_fn(batch)
        if x.ndim > 1 and (inputs.ndim != x.ndim or inputs.shape[1] != x.shape[1]):
            own, got = tuple(x.shape[1:]), tuple(inputs.shape)
            msg = f"FromLoader: expected inputs {('M', *own)}, as the step's own, got {got}; batch_fn=... reads them"
            raise ValueError(msg)
        return inputs.to(x)

    def _next(self) -> Any:
        if self._pass is None:
            self._pass = self._begin(self._taken)
        batch = next(self._pass, _END)
        if batch is _END:
            self._passes += 1
            self._taken, self._pass = 0, self._begin(0)
            batch = next(self._pass, _END)
        if batch is _END:
            msg = f"FromLoader: expected at least one batch for each process, got none from {self.loader!r}"
            raise ValueError(msg)
        self._taken += 1
        return batch

    def _begin(self, taken: int) -> Iterator[Any]:
        """This process's batches of one pass, behind the first ``taken``."""
        if self._batches is None:
            self._batches = _batches_of(self.loader, self.part)
        sampler: Any = getattr(self._batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self._passes)
        self._random_of_pass = RandomState(_CPU)
        rank, processes = place()
        return islice(self._batches, rank + taken * processes, None, processes)

    def state_dict(self) -> dict[str, Any]:
        """The number of passes that were finished, of batches taken from this one, and its random state."""
        began = self._random_of_pass
        return {"taken": self._taken, "passes": self._passes, "random": None if began is None else began.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In the same pass, behind as many batches."""
        self._taken, self._passes, self._pass = state["taken"], state.get("passes", 0), None
        self._random = None
        if state.get("random") is not None:
            self._random = RandomState(_CPU)
            self._random.load_state_dict(state["random"])

    def __getstate__(self) -> dict[str, Any]:
        # Made anew, in the same pass: not every sampler can be pickled.
        return {**vars(self), "_pass": None, "_batches": None, "_random": self._random_of_pass}


class Generated(Source):
    """Inputs that a function makes.

    Args:
        function: ``(n, generator) -> x``, ``[n, ...]``, on the CPU, drawing from ``generator`` alone.
        size: number of inputs in a step; None: as many as the batch has.
        seed: seed of the generator; None: torch's initial one. Each process draws different numbers.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> source = Generated(lambda n, generator: torch.rand(n, 2, generator=generator), size=5)
        >>> source.draw(torch.zeros(3, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        function: Callable[[int, torch.Generator], Tensor],
        *,
        size: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.function: Callable[[int, torch.Generator], Tensor] = checks.function(self, "function", function)
        self.size = or_none(integer, self, "size", size, low=1)
        self.seed = or_none(integer, self, "seed", seed)
        self.restart()

    def restart(self) -> None:
        """Draw the random numbers from the beginning."""
        self._generator: torch.Generator | None = None

    def draw(self, x: Tensor) -> Tensor:
        """New ones."""
        return self.function(self.size or len(x), self._own()).to(x)

    def _own(self) -> torch.Generator:
        if self._generator is None:
            self._generator = own_generator(self.seed, Purpose.UNLABELLED, place()[0])
        return self._generator

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator."""
        return {"generator": self._own().get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the random numbers."""
        self._own().set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_generator": None}


def _default(training: Attack) -> Attack:
    """TPGD for what the attack of training is for."""
    if isinstance(training, AttackInSpace):
        return training.space(_default(training.attack))
    if isinstance(training, AttackOnLogits):
        return AttackOnLogits(_default(training.attack), training.output_fn)
    threat = training.threat
    return TPGD(threat.eps, norm=threat.norm, bounds=threat.bounds)


class Unlabelled:
    r"""The layer-wise regularizer on inputs without labels.

    .. math:: \sum_{l \in MVL} \gamma_l\, CM(\phi_l(u), \phi_l(\hat u))

    It costs the attack and two further passes, which end at the deepest penalised layer, move no buffer and draw the
    same dropout masks. A weight decay cannot learn from such inputs. Inputs go to the model as they are, also where
    ``training_step`` changes those of the batch first.

    Args:
        source: where u comes from.
        attack: crafts the partners; it must not need labels, which it is given zeros for. None:
            :class:`~lsa_lightning.attacks.TPGD` under the threat model, in the input space and on the logits of
            training's attack.
        only: whether the regularizer is on these inputs alone; else also on the labelled ones.

    Raises:
        ValueError: if an argument is of another kind.
    """

    def __init__(self, source: Source, *, attack: Attack | None = None, only: bool = False) -> None:
        self.source = instance(self, "source", source, Source)
        self.attack = or_none(instance, self, "attack", attack, Attack)
        self.only = flag(self, "only", only)

    def beside(self, training: Attack, in_space: Callable[[Attack], Attack]) -> Unlabelled:
        """The same with an attack, by default like ``training``, for inputs and outputs as the model has them."""
        attack = self.attack or _default(training)
        return Unlabelled(self.source, attack=in_space(attack), only=self.only)

    def draw(
        self, model: Model, x: Tensor, warmed_up: Callable[[Attack], Attack] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs ``[M, ...]`` for a step whose own are ``x``, and their partners.

        Args:
            model: what the attack is on.
            x: the step's own inputs, ``[N, ...]``.
            warmed_up: gives the attack the radius of this step; None: its own.

        Raises:
            ValueError: if there is no attack.
        """
        attack = instance(self, "attack", self.attack, Attack)
        attack = attack if warmed_up is None else warmed_up(attack)
        inputs = self.source.draw(x)
        return inputs, attack(model, inputs, torch.zeros(len(inputs), dtype=torch.long, device=inputs.device))

    def restart(self) -> None:
        """Begin afresh."""
        self.source.restart()
        if self.attack is not None:
            self.attack.restart()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        attack = {} if self.attack is None else self.attack.state_dict()
        return {"source": self.source.state_dict(), "attack": attack}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the checkpoint's."""
        self.source.load_state_dict(state["source"])
        if self.attack is not None:
            self.attack.load_state_dict(state["attack"])


def _batches_of(loader: Iterable[Any] | pl.LightningDataModule, part: str) -> Iterable[Any]:
    if not isinstance(loader, pl.LightningDataModule):
        return loader
    loader.prepare_data()
    loader.setup("fit")
    batches: Iterable[Any] = getattr(loader, f"{part}_dataloader")()
    return batches


_CPU = torch.device("cpu")
_END = object()
