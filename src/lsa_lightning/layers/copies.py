"""Copies of those representations that what runs later in the same pass overwrites, and of no others."""

from __future__ import annotations

import torch
from torch import Tensor


class Copies:
    """Which layers of a model must be copied, learnt from the passes that run.

    A layer is copied the first time. If the pass has left what it returned as it was, later passes keep that itself.

    Example:
        >>> copies, representation = Copies(), torch.zeros(2, 3)
        >>> for _ in range(2):
        ...     keep = copies.of_pass()
        ...     print(keep("fc", representation) is representation, keep.overwritten())
        False []
        True []
    """

    def __init__(self) -> None:
        self._needed: dict[str, bool] = {}

    def of_pass(self) -> KeptOfPass:
        """The ``keep`` of the :class:`~lsa_lightning.layers.probe.LayerProbe` of one pass."""
        return KeptOfPass(self._needed)


class KeptOfPass:
    """What is kept of one pass.

    Args:
        needed: whether a layer must be copied, as far as passes have shown; what this one shows is added.
    """

    def __init__(self, needed: dict[str, bool]) -> None:
        self._needed = needed
        self._seen: dict[str, tuple[Tensor, tuple[int, ...] | None, Tensor]] = {}

    def __call__(self, layer: str, representation: Tensor) -> Tensor:
        """The representation, or a copy."""
        needed, before = self._needed.get(layer), _state(representation)
        if needed or before is None:
            return representation.clone()
        kept = representation if needed is False else representation.clone()
        self._seen[layer] = representation, before, kept
        return kept

    def overwritten(self) -> list[str]:
        """To be asked when the pass is over: layers that were not copied, and of whose output nothing is left.

        The next pass copies them. So it goes with a block that adds to its input in place and is left out by chance.
        """
        lost = []
        for layer, (representation, before, kept) in self._seen.items():
            written, copied = _state(representation) != before, kept is not representation
            if written and not copied:
                lost.append(layer)
            # A write past autograd's counter, as to ``.data``, shows in the values alone.
            written = written or (copied and not torch.equal(kept, representation))
            self._needed[layer] = written or self._needed.get(layer, False)
        return lost


def _state(tensor: Tensor) -> tuple[int, ...] | None:
    """Changes when ``tensor`` is written to, or its memory given back; None where that cannot be told."""
    try:
        storage = tensor.untyped_storage()
        return tensor._version, storage.data_ptr(), storage.nbytes()
    except RuntimeError:  # an inference tensor, or one inside a transform of torch.func
        return None
