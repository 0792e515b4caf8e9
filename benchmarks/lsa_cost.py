"""Time and peak memory of LSA over those of plain forward passes of the same network.

    python -m benchmarks.lsa_cost [--pairs 10] [--batch 256] [--batches 4] [--device cuda]

LSA of (clean, perturbed) pairs of batches over forward passes of the clean batches without gradients, one for each:
two passes are the least. Each analysis finds the layers anew, and how to compare them, which counts most where it is of
one pair alone; so an analysis of several is measured beside it. Peak memory is that of all live tensors, without the
network's own weights and the batches, which both need: on a GPU that of its allocator, on a CPU that of what operations
return.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.pairs import Ratio, paired, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lsa_lightning import LayerSustainabilityAnalysis
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, RelativeError
from lsa_lightning.models import VGG19


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that live at a time, of those that operations inside return.

    Attributes:
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self._storages:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._storages.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most that lives at a time, beyond what lived before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return int(torch.cuda.max_memory_allocated() - before)
    counted = LiveBytes()
    with counted:
        run()
    return counted.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4, help="of the analysis of several")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    network = VGG19().to(device).eval()
    x, y = torch.rand(args.batch, 3, 32, 32, device=device), torch.randint(10, (args.batch,), device=device)
    x_adv = (x + 8 / 255 * torch.randn_like(x).sign()).clamp(0, 1)
    results: dict[str, Any] = {}
    for measure in (RelativeError(), CenteredRelativeError()):
        results[measure.name] = {}
        for batches in (1, args.batches):
            time, memory = compare(network, [(x, y)] * batches, x_adv, measure, args.pairs)
            results[measure.name][f"{batches} x {args.batch}"] = {"passes": vars(time), "memory": memory}
            cost = f"{time} forward passes a pair; {memory:.3f} times their peak memory"
            print(f"{measure.name}, pairs of batches in an analysis: {batches}: {cost}", flush=True)
    save("lsa_cost", results)


def compare(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], x_adv: Tensor, measure: ComparisonMeasure, pairs: int
) -> tuple[Ratio, float]:
    """Time and memory of LSA over those of a forward pass of each batch, all with the same perturbed one."""
    analysis = LayerSustainabilityAnalysis(network, measure=measure)

    def lsa() -> None:
        analysis.run(batches, lambda *_: x_adv)

    @torch.no_grad()
    def forward() -> None:
        for x, _ in batches:
            network(x)

    time = paired(lsa, forward, pairs)
    return time, peak_bytes(lsa, x_adv.device) / peak_bytes(forward, x_adv.device)


if __name__ == "__main__":
    main()
