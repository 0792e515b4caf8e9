"""A few images in folders of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(
    root: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 6, size: tuple[int, int] = (40, 32)
) -> Path:
    """PNG files whose brightness tells their class; ``size`` is (height, width). Returns ``root``."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            noise = np.random.default_rng(i).integers(0, 50, (*size, 3)) + 150 * label // (len(classes) - 1)
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{i}.png")
    return root
