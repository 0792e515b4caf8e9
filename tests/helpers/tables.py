"""Accuracies and flags of two made-up models."""

from __future__ import annotations

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.masking import MaskingFlag

EPS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
ROWS = {"fgsm": [100.0, 90, 80, 70, 60, 50.125], "square": [100.0, 80, 60, 40, 20, 0.0]}
TABLE = RobustnessTable(EPS, ROWS, 10000)
OTHER = RobustnessTable(EPS, {name: [a / 2 for a in row] for name, row in ROWS.items()}, 10000)
FLAGS = {
    "not_deterministic": MaskingFlag(False, "no change"),
    "black_box_stronger": MaskingFlag(True, "Square fools 9 of 20 samples"),
    "full_range_above_chance": MaskingFlag(None, "does not apply: the inputs have no bounds"),
}
