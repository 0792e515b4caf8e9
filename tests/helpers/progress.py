"""What was shown of a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from lsa_lightning.utils.progress import Progress


@contextmanager
def every_progress() -> Iterator[list[Progress]]:
    """All that are begun meanwhile, in their order."""
    begun: list[Progress] = []
    enter = Progress.__enter__

    def recorded(progress: Progress) -> Progress:
        begun.append(progress)
        return enter(progress)

    with patch.object(Progress, "__enter__", recorded):
        yield begun
