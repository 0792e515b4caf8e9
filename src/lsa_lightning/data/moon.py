"""Two interleaved half circles, made on the fly."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning.data.loader import EpochShuffle, ResumableDataLoader, Rows
from lsa_lightning.utils.checks import flag, integer, number
from lsa_lightning.utils.random import Purpose, seed_of


class MoonDataModule(pl.LightningDataModule):
    """Two moons: points ``[2]`` (float32) with labels 0 and 1 (int64), no bounds.

    All splits are cut from one draw, which depends on ``seed``, the sizes and the noise alone. The paper does not give
    the noise; 0.2 with standardised coordinates comes nearest to its Normal row of Table 2.

    Args:
        noise: standard deviation of the Gaussian noise on the points before standardising, >= 0.
        train_size: number of training points >= 2.
        val_size: number of validation points >= 1.
        test_size: number of test points >= 1.
        standardize: zero mean and unit variance per coordinate, with the statistics of the training split.
        batch_size: points per batch >= 1.
        seed: seed of the draw, 0 to 2^32 - 1.
        unlabelled_size: number of points >= 2 of :meth:`unlabelled_dataloader`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> data = MoonDataModule(train_size=100)
        >>> data.setup("fit")
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([100, 2]), torch.Size([100]))

    Source: :func:`sklearn.datasets.make_moons`; arXiv 2202.02626, Table 2.
    """

    def __init__(
        self,
        noise: float = 0.2,
        *,
        train_size: int = 2000,
        val_size: int = 1000,
        test_size: int = 10000,
        standardize: bool = True,
        batch_size: int = 128,
        seed: int = 0,
        unlabelled_size: int = 1000,
    ) -> None:
        super().__init__()
        self.noise = number(self, "noise", noise, low=0)
        train_size = integer(self, "train_size", train_size, low=2)
        val_size, test_size = integer(self, "val_size", val_size, low=1), integer(self, "test_size", test_size, low=1)
        self.sizes = [train_size, val_size, test_size]
        self.standardize = flag(self, "standardize", standardize)
        self.batch_size = integer(self, "batch_size", batch_size, low=1)
        self.seed = integer(self, "seed", seed, low=0, high=2**32 - 1)
        self.unlabelled_size = integer(self, "unlabelled_size", unlabelled_size, low=2)
        self.splits: tuple[TensorDataset, ...] = ()
        self._mean, self._std = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)

    def setup(self, stage: str | None = None) -> None:
        """Draw the points, once."""
        if self.splits:
            return
        x, y = self._drawn(sum(self.sizes), self.seed)
        if self.standardize:
            train = x[: self.sizes[0]]
            self._mean, self._std = train.mean(0), train.std(0, correction=0)
        parts = zip(torch.split(self._scaled(x), self.sizes), torch.split(y, self.sizes), strict=True)
        self.splits = tuple(TensorDataset(*part) for part in parts)

    def _drawn(self, points: int, seed: int) -> tuple[Tensor, Tensor]:
        """Points ``[N, 2]`` in float64, as they are made, and their labels."""
        from sklearn.datasets import make_moons  # takes as long to import as the rest of the library

        x, y = make_moons(points, noise=self.noise, random_state=seed)
        return torch.as_tensor(x), torch.as_tensor(y, dtype=torch.int64)

    def _scaled(self, x: Tensor) -> Tensor:
        """Points as the splits have them."""
        return ((x - self._mean) / self._std).float()

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Training points in an order that depends on seed and epoch."""
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        return self._shuffled(*self.splits[0].tensors, ranks=ranks, rank=rank)

    def unlabelled_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Points of no split, scaled as they are, for :class:`~lsa_lightning.unlabelled.FromLoader`.

        Their labels come with them, and must not be looked at. The order follows ``sampler.set_epoch``; it is the same
        in all processes.
        """
        self.setup()
        x, y = self._drawn(self.unlabelled_size, seed_of(self.seed, Purpose.UNLABELLED_POINTS) % 2**32)
        return self._shuffled(self._scaled(x), y)

    def _shuffled(self, x: Tensor, y: Tensor, **place: int) -> DataLoader[tuple[Tensor, ...]]:
        sampler = EpochShuffle(len(x), self.seed, **place)
        return ResumableDataLoader(Rows(x, y), batch_size=self.batch_size, sampler=sampler, collate_fn=list)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Validation points."""
        return DataLoader(Rows(*self.splits[1].tensors), batch_size=self.sizes[1], collate_fn=list)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Test points."""
        return DataLoader(Rows(*self.splits[2].tensors), batch_size=self.sizes[2], collate_fn=list)
