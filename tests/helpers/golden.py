"""The weights that one fixed run of AT-LR on moons gives, and where they are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from tests.helpers.hydra_run import TINY, main_in_process
from torch import Tensor

from lsa_lightning.cli.train import main

GOLDEN = Path(__file__).parents[1] / "golden" / "moon_at_lr.json"
RUN = (
    "experiment=moon_at_lr",
    "method=paper",
    *TINY,
    "attack.steps=3",
    "data.train_size=256",
    "trainer.max_epochs=4",
    "seed=0",
)
"""Three steps: after ten, most inputs are at corners of the ball, whatever the step size."""


def trained_weights(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """The weights by name after lsa-train on one thread, with ``folder`` as the run folder."""
    torch.set_num_threads(1)
    main_in_process(main, *RUN, *overrides, f"hydra.run.dir={folder}")
    weights: dict[str, Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def stored_weights() -> dict[str, Tensor]:
    """The weights in the file."""
    return {name: torch.tensor(values) for name, values in json.loads(GOLDEN.read_text()).items()}


def store(weights: dict[str, Tensor]) -> None:
    """Write the file; JSON keeps every bit of a float32."""
    GOLDEN.write_text(json.dumps({name: value.tolist() for name, value in weights.items()}, indent=1) + "\n")


def digest(weights: dict[str, Tensor]) -> str:
    """Equal for weights that are equal bit for bit."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()[:16]
