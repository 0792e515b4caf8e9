"""The relative error of the paper, written out in float64 NumPy."""

from __future__ import annotations

import numpy as np


def oracle_relative_error(clean: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    c, p = (a.astype(np.float64).reshape(len(a), -1) for a in (clean, perturbed))
    distance, norm = np.linalg.norm(c - p, axis=1), np.linalg.norm(c, axis=1)
    return np.where(norm > 0, distance / np.where(norm > 0, norm, 1), (distance > 0).astype(np.float64))
