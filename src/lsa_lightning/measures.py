"""Comparison measures: how far a perturbed representation lies from its clean partner.

A measure of your own is one class: subclass :class:`ComparisonMeasure` and write ``__call__``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from torch import Tensor

from lsa_lightning import functional


class ComparisonMeasure(ABC):
    """Differentiable distance between clean and perturbed representations of one layer."""

    sample_by_sample: bool = False
    """Whether a sample's value depends on that sample alone; an analysis then takes a batch in parts."""

    least_samples: int = 1
    """Size of a batch from which on its values say something; an analysis leaves smaller ones out."""

    @property
    def name(self) -> str:
        """What log keys, files and tables call it: the class's name in lower case, such as ``relative_error``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """Compare sample by sample: two tensors ``[N, ...]`` give ``[N]``."""

    def over_batch(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """Compare the whole batch as one tensor (one Frobenius norm over all samples): a scalar."""
        return self(clean.reshape(1, -1), perturbed.reshape(1, -1))[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class RelativeError(ComparisonMeasure):
    r""":math:`\|\phi(x) - \phi(\hat x)\|_F / \|\phi(x)\|_F`, the measure of arXiv 2202.02626 and the default.

    As a penalty it can be driven to 0 by a layer whose output is constant: watch the base loss when gamma is large,
    or use :class:`CenteredRelativeError`.

    Example:
        >>> import torch
        >>> RelativeError()(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
        tensor([0.2000])
    """

    sample_by_sample = True

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.relative_error`."""
        return functional.relative_error(clean, perturbed)


class CenteredRelativeError(ComparisonMeasure):
    r""":math:`\|\phi(x) - \phi(\hat x)\|_F / \|\phi(x) - \bar\phi\|_F` with :math:`\bar\phi` the batch's mean.

    A constant layer scores 1, not 0. The value depends on what else is in the batch.

    Example:
        >>> import torch
        >>> constant = torch.ones(4, 3)
        >>> CenteredRelativeError()(constant, constant)
        tensor([1., 1., 1., 1.])
    """

    least_samples = 2  # one has no spread

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.centered_relative_error`."""
        return functional.centered_relative_error(clean, perturbed)

    def over_batch(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.centered_relative_error_over_batch`."""
        return functional.centered_relative_error_over_batch(clean, perturbed)


class RelativeSquaredError(ComparisonMeasure):
    r""":math:`\|\phi(x) - \phi(\hat x)\|^2` over the batch's mean of :math:`\|\phi(x) - \bar\phi\|^2`.

    The share of a layer's variance that the perturbation replaces. A constant layer scores 1, not 0, and a bias cannot
    lower it; as a penalty its pull fades with the distance. The value depends on what else is in the batch.

    Example:
        >>> import torch
        >>> RelativeSquaredError()(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.5]]))
        tensor([0.0000, 0.2500])
    """

    least_samples = 2  # one has no spread

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.relative_squared_error`."""
        return functional.relative_squared_error(clean, perturbed)

    def over_batch(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """The mean over the samples: both are divided by the same number."""
        return self(clean, perturbed).mean()


class CosineDistance(ComparisonMeasure):
    r""":math:`1 - \cos(\phi(x), \phi(\hat x))`: blind to a change of length.

    Example:
        >>> import torch
        >>> CosineDistance()(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0]]))
        tensor([0.])
    """

    sample_by_sample = True

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.cosine_distance`."""
        return functional.cosine_distance(clean, perturbed)


class KLDivergence(ComparisonMeasure):
    r""":math:`KL(p \,\|\, \hat p)` with :math:`p` the softmax of :math:`\phi(x)`: for what the model returns.

    Of the layer ``logits`` it compares predictions. One value in a row is the logit of two classes.

    Example:
        >>> import torch
        >>> KLDivergence()(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([0.1201])

    Source: the pairing term of TRADES, arXiv 1901.08573, eq. 5.
    """

    sample_by_sample = True

    @property
    def name(self) -> str:
        """``kl_divergence``."""
        return "kl_divergence"

    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """See :func:`lsa_lightning.functional.kl_divergence`."""
        return functional.kl_divergence(*functional.as_rows(clean, perturbed))

    def over_batch(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """The mean over the samples."""
        return self(clean, perturbed).mean()
