"""Adversarial training written out by hand: the oracle that the callbacks are compared with.

Nothing of the library's callbacks, probes or regularizers is used here; only the attack, which has tests of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
Representations = Callable[[Tensor], Mapping[str, Tensor]]


def at_loop(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Attack,
    optimizer: torch.optim.Optimizer,
    accumulate: int = 1,
    clip: float | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """One epoch of plain adversarial training."""
    at_lr_loop(model, batches, attack, optimizer, None, {}, accumulate, clip, forward_context)


def at_lr_loop(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Attack,
    optimizer: torch.optim.Optimizer,
    hidden: Representations | None,
    gamma: Mapping[str, float],
    accumulate: int = 1,
    clip: float | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """One epoch of Algorithm 3 with relative error and a fixed list of layers, the keys of ``gamma``."""
    model.train()
    batches = list(batches)
    optimizer.zero_grad()
    for index, (x, y) in enumerate(batches):
        with forward_context():
            model.eval()
            x_adv = attack(model, x, y)
            model.train()
            dropout_state = torch.get_rng_state()
            loss = F.cross_entropy(model(x_adv), y)
            statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
            if hidden is not None and gamma:
                loss = loss + _penalty(hidden, x, x_adv, gamma, dropout_state)
        (loss / accumulate).backward()
        # The passes of the penalty leave no trace in BatchNorm's statistics.
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
        if (index + 1) % accumulate == 0 or index + 1 == len(batches):
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()


def trades_loop(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Attack,
    optimizer: torch.optim.Optimizer,
    beta: float,
) -> None:
    """One epoch of TRADES on a model without dropout."""
    for x, y in batches:
        model.eval()
        x_adv = attack(model, x, y)
        model.train()
        clean, adversarial = F.log_softmax(model(x), 1), F.log_softmax(model(x_adv), 1)
        divergence = (clean.exp() * (clean - adversarial)).sum() / len(x)
        optimizer.zero_grad()
        (F.nll_loss(clean, y) + beta * divergence).backward()
        optimizer.step()


def _penalty(
    hidden: Representations, x: Tensor, x_adv: Tensor, gamma: Mapping[str, float], dropout_state: Tensor
) -> Tensor:
    """sum_l gamma_l mean_n ||phi(x_n) - phi(x^_n)|| / ||phi(x_n)||, with one draw of dropout for both sides."""
    after = torch.get_rng_state()
    sides = []
    for batch in (x, x_adv):
        torch.set_rng_state(dropout_state)
        sides.append(hidden(batch))
    torch.set_rng_state(after)
    clean, adversarial = sides
    total = torch.zeros(())
    for name, weight in gamma.items():
        difference = (clean[name] - adversarial[name]).flatten(1).norm(dim=1)
        total = total + weight * (difference / clean[name].flatten(1).norm(dim=1)).mean()
    return total
