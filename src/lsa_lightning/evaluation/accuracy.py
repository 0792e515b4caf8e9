"""Which samples a model classifies correctly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsa_lightning.functional import check_classes, predicted_labels
from lsa_lightning.utils.isolation import evaluating, scratch_buffers
from lsa_lightning.utils.outputs import LogitsOf, OutputFn, check_no_probabilities


def correct(model: nn.Module, x: Tensor, y: Tensor, output_fn: OutputFn | None = None) -> Tensor:
    """Which samples ``model``, in eval mode, classifies as ``y`` says.

    Args:
        model: maps x to logits.
        x: inputs ``[N, ...]``.
        y: labels ``[N]``.
        output_fn: see :class:`~lsa_lightning.utils.outputs.LogitsOf`.

    Returns:
        bool ``[N]``.

    Raises:
        ValueError: if the outputs are no logits, or the labels no classes.
    """
    logits_of = LogitsOf(model, output_fn)
    with evaluating(logits_of), scratch_buffers(model):
        with torch.no_grad():
            # A copy: some models normalise what they are given in place.
            logits = logits_of(x.clone())
        check_classes(logits, y)
        check_no_probabilities(logits_of, x, logits)
    return predicted_labels(logits) == y.flatten()
