"""What sets devices apart."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_ahead(device: torch.device) -> bool:
    """Whether work on ``device`` is only queued, and asking for a number stops the host until all of it is done.

    Example:
        >>> runs_ahead(torch.device("cpu"))
        False
    """
    return device.type == "cuda"


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of ordinary host memory on ``device``, which the host does not wait for: the driver has read them.

    Example:
        >>> sent(torch.arange(2), torch.device("cpu"))
        tensor([0, 1])
    """
    return values.to(device, non_blocking=runs_ahead(device))


class Arriving:
    """Numbers on their way to the host, while the device goes on.

    Args:
        values: the numbers, ``[M]``.

    Example:
        >>> Arriving(torch.tensor([1.0, 2.0])).read()
        [1.0, 2.0]
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values.device))

    @property
    def has_arrived(self) -> bool:
        """Whether reading them stops nothing."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def read(self) -> list[float]:
        """The numbers, waited for."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
