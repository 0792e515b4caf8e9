"""Makes our config groups visible to any Hydra app.

With lsa-lightning installed, an app's defaults list can say ``- lsa_lightning/attack@callbacks.atlr.attack: pgd``; in
a file of one of the app's own groups, such as ``callbacks/robust.yaml``, ``- /lsa_lightning/attack@atlr.attack: pgd``.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from lsa_lightning.utils.paths import CONF_DIR

GROUPS = ("attack", "measure", "objective", "regularizer")
"""The groups whose files stand alone, without a defaults list."""


class LSALightningPlugin(SearchPathPlugin):
    """Stores the YAML files of :data:`GROUPS` under ``lsa_lightning/<group>``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Fill the ConfigStore; the search path itself stays as it is, so that no name of the app is shadowed."""
        store = ConfigStore.instance()
        for group in GROUPS:
            for file in sorted((CONF_DIR / group).glob("*.yaml")):
                node = OmegaConf.load(file)
                store.store(group=f"lsa_lightning/{group}", name=file.stem, node=node, provider="lsa-lightning")
