"""Options that do nothing in a composition."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.hydra_run import TINY, composed_job, main_in_process, read_json

from lsa_lightning.cli.idle import READ_BY_OTHERS, idle_overrides
from lsa_lightning.cli.train import main
from lsa_lightning.utils.paths import CONF_DIR

NORMAL = "experiment=moon_normal"


@pytest.mark.parametrize(
    ("chosen", "override", "idle"),
    [
        (NORMAL, "regularizer.gamma=0.5", True),
        (NORMAL, "regularizer=layerwise", True),
        (NORMAL, "objective.beta=6", True),
        (NORMAL, "attack=fgsm", True),
        (NORMAL, "threat.eps=0.2", False),
        (NORMAL, "measure=cosine_distance", False),
        (NORMAL, "optimizer.lr=0.1", False),
        (NORMAL, "scheduler=cosine", False),
        (NORMAL, "seed=1", False),
        (NORMAL, "+limit_batches=1", False),
        (NORMAL, "+experimet=moon_at", True),
        (NORMAL, "+attack@evaluation.attacks.contrast=contrast", False),
        ("experiment=moon_at", "regularizer.gamma=0.5", True),
        ("experiment=moon_at", "method=unlabelled", True),
        ("experiment=moon_at", "method=paper", True),
        ("experiment=moon_at", "method=gated", False),
        (NORMAL, "method=gated", True),
        ("experiment=moon_at_lr", "method=paper", False),
        ("experiment=moon_at", "attack.steps=3", False),
        ("experiment=moon_at_lr", "regularizer.gamma=0.5", False),
        ("data=mnist", "data_stats.mean=[0.5]", False),
        ("data=mnist", "data.batch_size=3", False),
    ],
)
def test_what_no_object_is_made_from_is_idle(tmp_path: Path, chosen: str, override: str, idle: bool) -> None:
    typed = override.replace("objective.beta=6", "objective=trades")
    with composed_job("train", [chosen, typed], tmp_path) as cfg:
        assert list(idle_overrides(cfg, [chosen, typed])) == ([typed] if idle else [])


def test_a_model_of_ones_own_makes_the_optimizer_idle(tmp_path: Path) -> None:
    overrides = ["~model", "+model._target_=tests.helpers.hydra_run.PlainMoonModel", "optimizer.lr=0.1"]
    with composed_job("train", overrides, tmp_path) as cfg:
        assert idle_overrides(cfg, overrides) == {"optimizer.lr=0.1": "optimizer"}


def test_a_sweep_says_what_does_nothing_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [each for each in TINY if not each.startswith(("analysis.", "evaluation.masking."))]
    swept = ("experiment=moon_normal", "regularizer.gamma=0.5", "analysis=null", "evaluation.masking=null")
    main_in_process(main, "-m", *typed, *swept, f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=job")
    assert "Note: regularizer.gamma=0.5 would do nothing" in capsys.readouterr().out
    assert read_json(tmp_path / "job" / "summary.json")["trained"]["method"] == "normal"


def test_the_nodes_are_groups_or_come_from_the_data() -> None:
    assert {node for node in READ_BY_OTHERS if not (CONF_DIR / node).is_dir()} == {"data_stats", "threat"}
