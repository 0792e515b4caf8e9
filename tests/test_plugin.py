"""The config groups, seen from a Hydra app of somebody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tests.helpers.hydra_run import main_in_process

from hydra_plugins.lsa_lightning_plugin import GROUPS, LSALightningPlugin, LSALightningSource
from lsa_lightning import ATLR
from lsa_lightning.attacks import PGD
from lsa_lightning.utils.paths import CONF_DIR

CONFIG = """
defaults:
  - attack: own
  - lsa_lightning/attack@callbacks.atlr.attack: pgd
  - lsa_lightning/objective@callbacks.atlr.objective: trades
  - lsa_lightning/regularizer@callbacks.atlr.regularizer: layerwise
  - lsa_lightning/measure@callbacks.atlr.regularizer.measure: cosine_distance
  - _self_

callbacks:
  atlr:
    _target_: lsa_lightning.ATLR
    regularizer:
      gamma: 0.7
"""

Composer = Callable[..., DictConfig]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The configuration folder of a downstream app, which has a group called attack, too."""
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "own.yaml").write_text("strength: 3\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def composed(app: Path) -> Composer:
    """Composes the app's configuration."""

    def run(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(app), version_base="1.3"):
            return compose("config", list(overrides))

    return run


def test_hydra_finds_the_plugin() -> None:
    found = [plugin.__qualname__ for plugin in Plugins.instance().discover(SearchPathPlugin)]
    assert found.count(LSALightningPlugin.__qualname__) == 1


def test_our_groups_compose_and_instantiate(composed: Composer) -> None:
    callback = instantiate(composed().callbacks.atlr, _convert_="all")
    assert isinstance(callback, ATLR)
    assert isinstance(callback.attack, PGD)
    assert (callback.attack.eps, callback.attack.bounds) == (8 / 255, (0.0, 1.0))
    assert repr(callback.objective) == "TRADES(beta=6)"
    assert repr(callback.regularizer.measure) == "CosineDistance()"
    assert callback.regularizer.gamma == 0.7


def test_no_group_of_the_app_is_shadowed(composed: Composer) -> None:
    assert composed().attack == {"strength": 3}
    with pytest.raises(MissingConfigException, match="Could not find 'attack/pgd'"):
        composed("attack=pgd")


def test_our_options_are_chosen_on_the_command_line(composed: Composer) -> None:
    cfg = composed("lsa_lightning/attack@callbacks.atlr.attack=fgsm", "+threat.eps=0.1", "+threat.bounds=null")
    attack = instantiate(cfg.callbacks.atlr.attack, _convert_="all")
    assert repr(attack) == "FGSM(norm='Linf', eps=0.1, alpha=0.1)"


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_a_group_is_stored(composed: Composer, group: str) -> None:
    files = list((CONF_DIR / group).glob("*.yaml"))
    assert files
    for file in files:
        cfg = composed(f"+lsa_lightning/{group}@probe={file.stem}")
        assert cfg.probe == OmegaConf.load(file)
        assert "defaults" not in OmegaConf.load(file)


def test_a_group_of_the_app_with_the_same_name_comes_first(app: Path, composed: Composer) -> None:
    (app / "lsa_lightning" / "attack").mkdir(parents=True)
    (app / "lsa_lightning" / "attack" / "pgd.yaml").write_text("mine: true\n")
    assert composed("+lsa_lightning/attack@probe=pgd").probe == {"mine": True}


def test_hydra_lists_the_groups_and_their_options(app: Path) -> None:
    with initialize_config_dir(str(app), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert "lsa_lightning" in loader.list_groups("")
        assert loader.list_groups("lsa_lightning") == list(GROUPS)
        assert loader.get_group_options("lsa_lightning") == []
        for group in GROUPS:
            names = sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))
            assert loader.get_group_options(f"lsa_lightning/{group}") == names
            assert loader.list_groups(f"lsa_lightning/{group}") == []


@pytest.mark.parametrize("name", ["lsa_lightning/data", "lsa_lightning/attack/none", "attack/pgd", "none/attack/pgd"])
def test_there_is_nothing_else(name: str) -> None:
    source = LSALightningSource("lsa-lightning", "lsa-lightning://")
    assert source.available()
    assert not source.exists(name)


@pytest.mark.slow
def test_an_app_that_does_not_use_us_starts_without_pytorch(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\nimport hydra\n\n@hydra.main(version_base='1.3', config_path=None)\ndef main(cfg):\n"
        "    print(sorted({'lightning', 'lsa_lightning', 'optuna', 'torch'} & sys.modules.keys()))\n\nmain()\n"
    )
    done = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_downstream_entry_point_runs(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @hydra.main(version_base="1.3", config_path=str(app), config_name="config")
    def main(cfg: DictConfig) -> None:
        print(instantiate(cfg.callbacks.atlr.attack, _convert_="all"))

    main_in_process(main, "callbacks.atlr.attack.steps=4", f"hydra.run.dir={app}/out")
    assert "PGD(steps=4" in capsys.readouterr().out
