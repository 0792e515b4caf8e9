"""Where the configuration lives: inside the package when installed from a wheel, else in the repository."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_CANDIDATES = (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf")
CONF_DIR: Path = next((path for path in _CANDIDATES if path.is_dir()), _CANDIDATES[0])
"""The folder of the Hydra configuration."""
