"""What all benchmarks share: interleaved pairs, their ratio with its spread, and results as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """The time, or another cost, of one thing over that of another.

    Attributes:
        median: of the pairs' ratios.
        low: their lower quartile.
        high: their upper quartile.
        pairs: number of pairs.
        ours: median cost of the one.
        theirs: median cost of the other.
    """

    median: float
    low: float
    high: float
    pairs: int
    ours: float
    theirs: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Ratio:
        """The ratio of costs that were measured in pairs."""
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(median, low, high, len(ratios), statistics.median(ours), statistics.median(theirs))

    def __str__(self) -> str:
        return f"{self.median:.3f} (quartiles {self.low:.3f} to {self.high:.3f}, {self.pairs} pairs)"


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 10, warmup: int = 1) -> Ratio:
    """Time both by turns, each first in every other pair, so that whatever else the machine does hits both."""
    for _ in range(warmup):
        ours()
        theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            times[which].append(seconds((ours, theirs)[which]))
    return Ratio.of(*times)


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of ``run``, what it started on a GPU included."""
    _synchronize()
    started = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the figures depend on: device, processor, threads, versions."""
    packages = ("lsa-lightning", "torch", "lightning", "torchattacks")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def save(name: str, results: dict[str, Any]) -> None:
    """Write ``results/<name>.json``, ratios as mappings, with :func:`machine`."""
    plain = {key: asdict(value) if isinstance(value, Ratio) else value for key, value in results.items()}
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), **plain}, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
