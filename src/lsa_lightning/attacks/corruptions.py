"""Corruptions: attacks that change an input as a camera might, without looking at the model.

As for the noises, the severity is ``eps``: the result is the point of the ball, and within the bounds, that is nearest
to the corrupted input. In Linf each coordinate goes at most eps of the way; in L2 all go the same share of it. Labels
are not used, nor random numbers.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Attack, Model
from lsa_lightning.utils.checks import number


class Corruption(Attack):
    """The corrupted input, projected to the ball and the bounds. Subclasses write :meth:`corrupted`.

    Args:
        eps: radius >= 0.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, eps: float = 8 / 255, *, norm: str = "Linf", bounds: Bounds = (0.0, 1.0)) -> None:
        super().__init__(eps, norm=norm, bounds=bounds)

    @abstractmethod
    def corrupted(self, x: Tensor, ball: Ball) -> Tensor:
        """What becomes of ``x`` (float32 at least) before projection."""

    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """The model is not called."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return ball.project(self.corrupted(wide, ball).to(x.dtype))


class Brightness(Corruption):
    """Every coordinate is raised alike: in Linf by eps, in L2 by eps / sqrt(d) for inputs of d coordinates.

    Args:
        eps: radius >= 0.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> Brightness(0.1)(torch.nn.Identity(), torch.tensor([[0.5, 0.95]]), torch.tensor([0]))
        tensor([[0.6000, 1.0000]])
    """

    def corrupted(self, x: Tensor, ball: Ball) -> Tensor:
        """Brighter."""
        return x + self.eps / ball.norm_of_ones(x[0].numel())


class Contrast(Corruption):
    r"""Every coordinate goes towards the mean m of its sample: :math:`m + f (x - m)`, projected; Linf: cut at eps.

    Args:
        eps: radius >= 0.
        factor: share f in [0, 1] of the contrast that a large eps leaves; 0: one flat colour.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> Contrast(1.0, factor=0.5)(torch.nn.Identity(), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
        tensor([[0.2500, 0.7500]])
    """

    def __init__(
        self, eps: float = 8 / 255, factor: float = 0.5, *, norm: str = "Linf", bounds: Bounds = (0.0, 1.0)
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds)
        self.factor = number(self, "factor", factor, low=0, high=1)

    def corrupted(self, x: Tensor, ball: Ball) -> Tensor:
        """Flatter."""
        mean = x.flatten(1).mean(dim=1).view(-1, *[1] * (x.ndim - 1))
        return mean + self.factor * (x - mean)


class Blur(Corruption):
    """Images are blurred by a Gaussian of width ``sigma``, projected; Linf: cut at eps.

    Beyond the edge, the picture goes on as it is there.

    Args:
        eps: radius >= 0.
        sigma: standard deviation > 0 of the Gaussian in pixels, which a large eps shows in full.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value, or None.

    Raises:
        ValueError: if an argument is outside its range, or inputs are no images ``[N, C, H, W]``.
    """

    def __init__(
        self, eps: float = 8 / 255, sigma: float = 1.0, *, norm: str = "Linf", bounds: Bounds = (0.0, 1.0)
    ) -> None:
        super().__init__(eps, norm=norm, bounds=bounds)
        self.sigma = number(self, "sigma", sigma, above=0)

    def corrupted(self, x: Tensor, ball: Ball) -> Tensor:
        """Blurred along rows, then along columns."""
        if x.ndim != 4:
            msg = f"expected images [N, C, H, W] to blur, got inputs of shape {tuple(x.shape)}"
            raise ValueError(msg)
        reach = max(1, round(3 * self.sigma))
        weights = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).div(self.sigma).square().mul(-0.5)
        kernel = weights.softmax(dim=0).view(1, 1, 1, -1)
        flat = F.pad(x, (reach, reach, reach, reach), mode="replicate").flatten(0, 1).unsqueeze(1)
        return F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3)).view_as(x)
