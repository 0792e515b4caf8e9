"""What makes the same run quicker: compiled passes, the memory format that tensor cores read, threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lsa_lightning.layers.compiled import compile_in_place
from lsa_lightning.utils.checks import flag, instance, integer, or_none

_GRAPHS = 32
"""Graphs that one ``forward`` may be compiled to: those of attack, step, validation and evaluation, each for its first
batch size and for any, differ in gradients, modes and frozen parameters. Torch compiles 8 unless told."""


def accelerate(model: nn.Module, *, compiled: bool | Mapping[str, Any] = False, channels_last: bool = False) -> None:
    """Change how ``model`` runs, in place; its parameters and their names stay.

    Compiled are the passes of attacks, of steps, of validation and of evaluation. The passes of LSA run as they were
    written, and so do those of steps with a penalty where something forbids to compile them, see
    :class:`~lsa_lightning.layers.compiled.CompiledProbe`. What was compiled before in this process, as by another job
    of a sweep, is forgotten.

    Args:
        model: the model.
        compiled: True, or the options of ``torch.compile``, such as ``{"mode": "max-autotune"}``; False: not compiled.
        channels_last: keep the weights of 2d convolutions in the memory format ``torch.channels_last``, which their
            outputs then have too.

    Raises:
        ValueError: if an argument is of another kind.

    Example:
        >>> model = nn.Conv2d(3, 4, 3)
        >>> accelerate(model, channels_last=True)
        >>> model(torch.zeros(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    instance("accelerate", "compiled", compiled, (bool, Mapping), what="true, false or the options of torch.compile")
    if flag("accelerate", "channels_last", channels_last):
        model.to(memory_format=torch.channels_last)
    if compiled is not False:
        torch._dynamo.reset()
        # Later versions than torch 2.6 call it recompile_limit as well.
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _GRAPHS)
        compile_in_place(model, {} if compiled is True else compiled)


def use_threads(command: str, number: int | None) -> None:
    """Let torch compute with as many threads of the CPU as a command was given.

    Args:
        command: its name in messages.
        number: the threads, >= 1; None: as many as torch chooses.

    Raises:
        ValueError: if it is another number.
    """
    if (checked := or_none(integer, command, "num_threads", number, low=1)) is not None:
        torch.set_num_threads(checked)
