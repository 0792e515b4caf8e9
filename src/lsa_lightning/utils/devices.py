"""What sets devices apart."""

from __future__ import annotations

import torch


def runs_ahead(device: torch.device) -> bool:
    """Whether work on ``device`` is only queued, and asking for a number stops the host until all of it is done.

    Example:
        >>> runs_ahead(torch.device("cpu"))
        False
    """
    return device.type == "cuda"
