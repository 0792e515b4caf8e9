"""Where all random numbers come from: a seed, what they are for, and which of their kind they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

import torch


class Purpose(Enum):
    """What random numbers are for. Each purpose has streams of its own, told apart by the key after the colon."""

    SPLIT = "split of the training images into training and validation ones:"
    ORDER = "order of the training samples: epoch"
    AUGMENTATION = "augmentation of the training images: epoch"
    TRANSFORM = "a transform of one's own: epoch, image"
    ATTACK = "an attack in training: rank"
    ATTACK_STREAM = "an attack in an evaluation: batch"
    EXTERNAL = "an attack of another library, which draws from the global generators: draw of our own attack"
    EVALUATED_MODEL = "a model that draws numbers while it is evaluated: batch"
    ANALYSED_MODEL = "a model that draws numbers while its layers are analysed: batch"
    CHECKED_MODEL = "a model that draws numbers while its gradients are checked: batch"
    UNLABELLED = "inputs without labels that are made in training: rank"
    UNLABELLED_POINTS = "points of two moons that nobody labels:"
    UNLABELLED_LOADER = "what a dataloader of inputs without labels draws from the global generators:"
    DIRECTIONS = "directions in which gradients are compared with differences: batch"


def seed_of(seed: int, purpose: Purpose, *key: int) -> int:
    """A seed in [0, 2^63) that depends on all arguments.

    They are hashed, so seed 0 in epoch 1 is not seed 1 in epoch 0, and numbers of one purpose are none of another.
    Torch's generators on the CPU look at its low 32 bits alone.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for.
        key: which of their kind they are, as the purpose says.

    Example:
        >>> seed_of(0, Purpose.ORDER, 1) == seed_of(1, Purpose.ORDER, 0)
        False
    """
    text = "/".join([purpose.name, str(int(seed)), *(str(int(part)) for part in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 2**63


def generator_of(seed: int, purpose: Purpose, *key: int, device: torch.device | str | None = None) -> torch.Generator:
    """A generator on ``device`` (None: the CPU) with :func:`seed_of` its arguments.

    Example:
        >>> torch.randperm(4, generator=generator_of(0, Purpose.ORDER, 2)).sort().values
        tensor([0, 1, 2, 3])
    """
    return torch.Generator(device or "cpu").manual_seed(seed_of(seed, purpose, *key))


MakeGenerator = Callable[..., torch.Generator]
"""Called as ``make(seed, purpose, *key, device=device)``; a seed of None is that of the model."""


_MAKE: ContextVar[MakeGenerator | None] = ContextVar("make", default=None)


def own_generator(
    seed: int | None, purpose: Purpose, *key: int, device: torch.device | str | None = None
) -> torch.Generator:
    """:func:`generator_of` for ``seed``, or, where that is None, for torch's initial one.

    Inside of :func:`generators_from` it is made there.
    """
    make = _MAKE.get()
    if make is not None:
        return make(seed, purpose, *key, device=device)
    return generator_of(torch.initial_seed() if seed is None else seed, purpose, *key, device=device)


@contextmanager
def generators_from(make: MakeGenerator) -> Iterator[None]:
    """Inside, :func:`own_generator` returns what ``make`` does: generators for several models at once."""
    token = _MAKE.set(make)
    try:
        yield
    finally:
        _MAKE.reset(token)
