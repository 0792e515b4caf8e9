"""Where the configuration is found."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from lsa_lightning.utils import paths


def conf_dir_seen_from(package: Path) -> Path:
    """CONF_DIR of a copy of the module in ``package``."""
    (package / "utils").mkdir(parents=True, exist_ok=True)
    copied = shutil.copy(paths.__file__, package / "utils" / "paths.py")
    return Path(runpy.run_path(str(copied))["CONF_DIR"])


def test_conf_dir_holds_the_entry_points_configuration() -> None:
    assert paths.CONF_DIR.is_absolute()
    for name in ("train", "analyze", "evaluate", "attack/pgd"):
        assert (paths.CONF_DIR / f"{name}.yaml").is_file()


def test_a_checkout_has_it_beside_src(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    assert conf_dir_seen_from(tmp_path / "src" / "lsa_lightning") == tmp_path / "conf"


def test_a_wheel_has_it_inside_the_package_which_comes_first(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "lsa_lightning"
    for folder in (package / "conf", tmp_path / "conf"):
        folder.mkdir(parents=True)
    assert conf_dir_seen_from(package) == package / "conf"
