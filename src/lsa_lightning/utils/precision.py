"""How precisely a device can compute."""

from __future__ import annotations

import torch


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none, such as Apple's MPS.

    Args:
        device: where the numbers are to be.

    Returns:
        The dtype.

    Example:
        >>> widest_float(torch.device("cpu"))
        torch.float64
    """
    try:
        torch.empty(1, dtype=torch.float64, device=device)
    except TypeError:  # asked for float64, MPS raises one
        return torch.float32
    return torch.float64
