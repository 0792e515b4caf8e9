"""Streaming statistics of per-layer relative errors, reducible across processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lsa_lightning.utils.checks import sequence, text
from lsa_lightning.utils.precision import widest_float


class Profile(NamedTuple):
    """What :class:`LayerProfile` computes; all tensors are float64 where that exists."""

    mean: Tensor
    """Mean over the samples for each layer, shape ``[L]``."""
    std: Tensor
    """Population standard deviation over the samples for each layer, shape ``[L]``."""
    mu: Tensor
    """Mean over samples and layers, scalar."""
    sigma: Tensor
    """Population standard deviation over samples and layers, scalar."""
    samples: int
    """M, the number of samples."""


class LayerProfile(Metric):
    r"""Mean and spread of the relative error of L layers over M samples.

    .. math::
        \mu = \frac{1}{M L} \sum_m \sum_l CM_{ml}, \qquad
        \sigma = \sqrt{\frac{1}{M L} \sum_m \sum_l (CM_{ml} - \mu)^2}

    Only sums are kept, in float64, so memory does not grow with M, the result does not depend on how the samples were
    cut into batches, and processes are reduced by addition. The sums stay where the metric is: leave it on the CPU for
    errors of a device without float64, such as Apple's MPS.

    Args:
        layers: L layer names, at least one; they are named in errors.
        **kwargs: passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if ``layers`` is empty.

    Example:
        >>> profile = LayerProfile(["fc1", "fc2"])
        >>> profile.update(torch.tensor([[0.1, 0.5], [0.3, 0.7]]))
        >>> profile.compute().mean
        tensor([0.2000, 0.6000], dtype=torch.float64)

    Source: arXiv 2202.02626, eq. (12).
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, layers: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = sequence(self, "layers", layers, text)
        wide = widest_float(torch.get_default_device())
        self.add_state("total", torch.zeros(len(self.layers), dtype=wide), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(len(self.layers), dtype=wide), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @wraps(compute)
        def with_layer_dimension(*args: Any, **kwargs: Any) -> Profile:
            profile: Profile = wrapped(*args, **kwargs)
            # torchmetrics makes scalars of tensors with one element, such as the means of a single layer.
            return profile._replace(mean=profile.mean.reshape(-1), std=profile.std.reshape(-1))

        return with_layer_dimension

    def update(self, errors: Tensor) -> None:
        """Add the relative errors of a batch, shape ``[N, L]``.

        Raises:
            ValueError: if the shape does not fit or a value is not finite.
        """
        if errors.ndim != 2 or errors.shape[1] != len(self.layers):
            msg = f"expected errors of shape [N, {len(self.layers)}], got {tuple(errors.shape)}"
            raise ValueError(msg)
        # Two steps: the device that the errors come from may not know the dtype.
        wide = errors.detach().to(self.total.device).to(self.total.dtype)
        if not wide.isfinite().all():
            bad = [self.layers[i] for i in (~wide.isfinite().all(dim=0)).nonzero().flatten().tolist()]
            msg = f"expected finite representations, got NaN or infinity in the relative errors of {bad}"
            raise ValueError(msg)
        self.total += wide.sum(0)
        self.squares += wide.square().sum(0)
        self.count += len(wide)

    def compute(self) -> Profile:
        """Reduce to a :class:`Profile`.

        Raises:
            ValueError: if no sample was added.
        """
        samples = int(self.count)
        if samples == 0:
            msg = "expected at least one sample, got none: is the dataloader empty?"
            raise ValueError(msg)
        mean, mean_square = self.total / samples, self.squares / samples
        mu = mean.mean()
        return Profile(
            mean=mean,
            std=(mean_square - mean.square()).clamp_min(0).sqrt(),
            mu=mu,
            sigma=(mean_square.mean() - mu.square()).clamp_min(0).sqrt(),
            samples=samples,
        )
