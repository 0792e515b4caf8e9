"""Makes our config groups visible to any Hydra app.

With lsa-lightning installed, an app's defaults list can say ``- lsa_lightning/attack@callbacks.atlr.attack: pgd``; in
a file of one of the app's own groups, such as ``callbacks/robust.yaml``, ``- /lsa_lightning/attack@atlr.attack: pgd``.

Hydra imports this module in every app of an environment, so that nothing here imports lsa_lightning, and with it
PyTorch, or reads a file before a group is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

PREFIX = "lsa_lightning"
GROUPS = ("attack", "measure", "objective", "regularizer")
"""The groups whose files stand alone, without a defaults list."""

_PACKAGE = Path(__file__).parents[1] / "lsa_lightning"
_CONF = next((path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir()), _PACKAGE)
# As lsa_lightning.utils.paths has it, which cannot be imported without the rest.


class LSALightningPlugin(SearchPathPlugin):
    """Adds a :class:`LSALightningSource` behind everything that the app itself has."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source."""
        search_path.append("lsa-lightning", f"{LSALightningSource.scheme()}://")


class LSALightningSource(ConfigSource):
    """The YAML files of :data:`GROUPS` as ``lsa_lightning/<group>/<name>``; so no name of the app is shadowed."""

    @staticmethod
    def scheme() -> str:
        """``lsa-lightning``."""
        return "lsa-lightning"

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether it has children."""
        return bool(self._children(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        group, _, name = self._normalize_file_name(config_path).rpartition("/")
        return name in self._children(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of groups, and of files without their endings."""
        others = ObjectType.CONFIG if config_path in ("", PREFIX) else ObjectType.GROUP
        return [] if results_filter == others else sorted(Path(name).stem for name in self._children(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        config = OmegaConf.load(_CONF / self._normalize_file_name(config_path).removeprefix(f"{PREFIX}/"))
        return ConfigResult(self.provider, self.full_path(), config, header={"package": None})

    @staticmethod
    def _children(group: str) -> Sequence[str]:
        """What is in a group; nothing where there is none."""
        if group in ("", PREFIX):
            return GROUPS if group else (PREFIX,)
        prefix, _, own = group.partition("/")
        return [file.name for file in (_CONF / own).glob("*.yaml")] if prefix == PREFIX and own in GROUPS else ()
