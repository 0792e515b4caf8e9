"""Entries of a configuration that change no result."""

from __future__ import annotations

HARMLESS = (
    "callbacks.last_checkpoint",
    "callbacks.progress_bar",
    "cluster",
    "data.num_workers",
    "data.root",
    "logger",
    "num_threads",
    "optimized_metric",
    "paths",
    "resume",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.num_nodes",
    "trainer.strategy",
    "trust",
)
"""Entries of the configuration that a job may go on with otherwise than it began, since its results are the same."""

ON_TRUST = ("data.root", "trainer.devices", "trainer.num_nodes")
"""Those of them that change none only if the same data lie there, and the batches are cut to fit: that is said."""


def is_in(key: str, entries: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the entries, or lies in one."""
    return any(key == entry or key.startswith(f"{entry}.") for entry in entries)
