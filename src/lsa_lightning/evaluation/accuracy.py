"""Which samples a model classifies correctly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsa_lightning.functional import predicted_labels
from lsa_lightning.utils.isolation import evaluating, scratch_buffers


def correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which samples ``model``, in eval mode, classifies as ``y`` says: bool ``[N]``."""
    with evaluating(model), scratch_buffers(model), torch.no_grad():
        # A copy: some models normalise what they are given in place.
        return predicted_labels(model(x.clone())) == y.flatten()
