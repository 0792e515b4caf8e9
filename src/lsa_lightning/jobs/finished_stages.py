"""Results in a run folder that need not be computed again when a job is started again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lsa_lightning.evaluation.state import digest
from lsa_lightning.layers.report import SustainabilityReport
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.folder import read_json, write_json
from lsa_lightning.runs.stages import Analysis, AnalysisStage
from lsa_lightning.utils.distributed import by_first

EVALUATION_STATE = Path("state") / "evaluation.jsonl"
"""The finished batches of the evaluation, in the run folder."""

_FILE = Path("state") / "stages.json"

_FIGURES = ("accuracy", "class_accuracy", "confusion", "decision_boundary", "adversarial_images", "largest_errors")
_WRITTEN = {
    "analysis": ("profile.csv", "profile_*.json", "figures/layer_profile.*"),
    "evaluation": (
        *("evaluation.*", "classes.*", "examples.safetensors"),
        *(f"figures/{name}.*" for name in _FIGURES),
    ),
}
"""What each stage writes into the run folder."""


class FinishedStages:
    """Notes, in a file of the run folder, which weights and settings the results of each stage belong to.

    In a distributed run, the first process reads and writes for all.

    Args:
        folder: the run folder.
        model: the model that is measured.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder = folder
        self._weights = digest(model.state_dict())

    def has(self, stage: str, settings: DictConfig) -> bool:
        """Whether the results of ``stage`` are those of this model, with these settings."""
        return by_first(lambda: self._read().get(stage) == self._key(settings))

    def add(self, stage: str, settings: DictConfig) -> None:
        """They are from now on."""
        by_first(lambda: write_json({**self._read(), stage: self._key(settings)}, self.folder / _FILE))

    def forget(self, *stages: str) -> None:
        """They are nobody's, as they are about to be written anew."""
        by_first(partial(self._forget, stages))

    def remove_outdated(self) -> None:
        """Remove the results of other weights, as those before a run has trained on, lest they pass for these."""
        by_first(self._remove_outdated)

    def _forget(self, stages: Collection[str]) -> None:
        if known := self._read():
            write_json({stage: key for stage, key in known.items() if stage not in stages}, self.folder / _FILE)

    def _remove_outdated(self) -> None:
        outdated = [stage for stage, (weights, _) in self._read().items() if weights != self._weights]
        for pattern in (pattern for stage in outdated for pattern in _WRITTEN.get(stage, ())):
            for file in self.folder.glob(pattern):
                file.unlink()
        self._forget(outdated)

    def begin_evaluation(self, settings: DictConfig) -> None:
        """Forget the finished batches of an evaluation of other weights, or with other settings."""
        if not self.has("evaluation", settings):
            by_first(self._forget_batches)
            self.forget("masking")  # whose flags are in a file that is written anew
            self.add("evaluation", settings)

    def _forget_batches(self) -> None:
        for file in (self.folder / EVALUATION_STATE.parent).glob(f"{EVALUATION_STATE.name}*"):
            file.unlink()  # those of all processes

    def _read(self) -> dict[str, Any]:
        return read_json(self.folder / _FILE) if (self.folder / _FILE).is_file() else {}

    def _key(self, settings: DictConfig) -> list[int]:
        words = json.dumps(OmegaConf.to_container(settings, resolve=True), sort_keys=True)
        return [self._weights, zlib.crc32(words.encode())]


def read_analysis(stage: AnalysisStage, folder: Path) -> Analysis:
    """The analysis that ``write_analysis`` wrote.

    Raises:
        ValueError: if a file holds something else.
    """
    reports = {name: SustainabilityReport.load(folder / f"profile_{name}.json") for name in stage.attacks}
    return stage.found(reports)


def read_masking(folder: Path) -> dict[str, MaskingFlag]:
    """The flags that ``write_evaluation`` wrote."""
    return {name: MaskingFlag(**flag) for name, flag in read_json(folder / "evaluation.json")["masking"].items()}
