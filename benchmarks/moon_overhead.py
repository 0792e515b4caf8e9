"""Time of adversarial training on Moon through Lightning over that of a loop written by hand.

    python -m benchmarks.moon_overhead [--pairs 10] [--epochs 20]

Model A, 16 steps of 128 points an epoch, PGD-10, one thread, no validation and no logger. The hand-written loop uses
the same data loader and the same attack; ``hand_pgd`` is the time over that of a loop whose attack is written by hand
too. ``plain_lightning`` is the same comparison without an attack and without any callback of this package: what
Lightning itself adds. ``lightning_share`` is that cost in units of a step of the loop with the attack, so ``at`` cannot
be below ``1 + lightning_share`` by anything that is done here.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.pairs import paired, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import AdversarialTraining, RobustClassifier
from lsa_lightning.attacks import PGD
from lsa_lightning.functional import classification_loss
from lsa_lightning.models import MLP

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

EPS, STEPS = 0.3, 10


class Loops:
    """The two loops, on the same data.

    Args:
        epochs: length of one measured run.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.data = TensorDataset(torch.randn(2000, 2), torch.randint(2, (2000,)))

    def loader(self) -> Iterable[Any]:
        """Batches of 128, shuffled."""
        return DataLoader(self.data, batch_size=128, shuffle=True)

    def lightning(self, attack: PGD | None) -> None:
        """A fit with our callback, or without an attack and any callback."""
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=self.epochs,
            callbacks=[] if attack is None else [AdversarialTraining(attack)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(RobustClassifier(MLP()), self.loader())

    def hand(self, attack: Attack | None) -> None:
        """The same, with nothing of Lightning."""
        model = MLP()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loader = self.loader()
        for _ in range(self.epochs):
            total, right = torch.zeros(()), torch.zeros(())
            for x, y in loader:
                if attack is not None:
                    x = attack(model, x, y)  # noqa: PLW2901
                logits = model(x)
                loss = classification_loss(logits, y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
                right += ((logits.detach().flatten() > 0) == y).float().mean()


def hand_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD as a tutorial writes it."""
    model.eval()
    x_adv = x + torch.empty_like(x).uniform_(-EPS, EPS)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x_adv).flatten(), y.float())
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + 2.5 * EPS / STEPS * gradient.sign()
        x_adv = torch.clamp(x_adv, x - EPS, x + EPS)
    model.train()
    return x_adv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loops, attack = Loops(args.epochs), PGD(EPS, steps=STEPS, bounds=None)
    at = paired(lambda: loops.lightning(attack), lambda: loops.hand(attack), args.pairs)
    print(f"AT through Lightning over the loop by hand: {at}", flush=True)
    plain = paired(lambda: loops.lightning(None), lambda: loops.hand(None), args.pairs)
    share = (plain.ours - plain.theirs) / at.theirs
    print(f"the same without attack and callback: {plain}; in units of a step of AT: {share:.3f}", flush=True)
    by_hand = paired(lambda: loops.lightning(attack), lambda: loops.hand(hand_pgd), args.pairs)
    print(f"AT through Lightning over the loop whose PGD is by hand too: {by_hand}", flush=True)
    save("moon_overhead", {"at": at, "plain_lightning": plain, "lightning_share": share, "hand_pgd": by_hand})


if __name__ == "__main__":
    main()
