"""Where the configuration lives: inside the package when installed from a wheel, else in the repository."""

from __future__ import annotations

from pathlib import Path

_CANDIDATES = (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf")

CONF_DIR: Path = next((path for path in _CANDIDATES if path.is_dir()), _CANDIDATES[0])
"""The folder of the Hydra configuration."""
