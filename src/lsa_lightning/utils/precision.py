"""What precisions a device has, and has instructions for."""

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


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16, rather than in float32 with conversions around each operation.

    Args:
        device: where it is to be computed.

    Returns:
        False for a CPU without instructions for it, such as AVX-512's: a small ResNet took 10 times as long there in
        bfloat16 as in float32. True for any other device.

    Example:
        >>> has_bfloat16(torch.device("cuda"))
        True
    """
    if device.type != "cpu":
        return True
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
