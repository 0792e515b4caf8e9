"""The measure of a run: its name is the same wherever it appears, and training and analysis mean the same by it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.helpers.hydra_run import main_in_process, read_json, read_metrics, train_tiny

from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.utils.paths import CONF_DIR

MEASURES = sorted(path.stem for path in (CONF_DIR / "measure").glob("*.yaml"))


@pytest.fixture(scope="module", params=MEASURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A measure, the folder of a run with it, and what the run printed. PGD starts at the clean point."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options = ("attack.steps=2", "attack.random_start=false", "trainer.max_epochs=2")
    return request.param, folder, train_tiny(folder, f"measure={request.param}", *options)


def test_the_name_of_the_measure_is_the_same_everywhere(case: tuple[str, Path, str]) -> None:
    measure, folder, printed = case
    kinds = {key.split("/")[1] for key in read_metrics(folder)[0] if key.startswith("lsa/") and key.count("/") == 2}
    assert kinds == {measure, "in_mvl"}
    assert f"lsa/{measure}/00_backbone.act1" in read_metrics(folder)[0]
    assert f"{measure.replace('_', ' ').capitalize()} per layer (mean over 40 samples)" in printed
    assert {read_json(file)["measure"] for file in folder.glob("profile_*.json")} == {measure}
    assert set(pd.read_csv(folder / "profile.csv")["measure"]) == {measure}
    summary = read_json(folder / "summary.json")
    assert summary["measure"] == measure
    assert {entry["measure"] for entry in summary["mvl_history"]} == {measure}


def test_training_and_analysis_measure_the_same(case: tuple[str, Path, str], tmp_path: Path) -> None:
    measure, folder, _ = case
    same_attack = ("analysis.attacks.pgd.steps=2", "analysis.attacks.pgd.random_start=false", "split=val")
    checkpoint = f"ckpt_path={folder}/checkpoints/last.ckpt"
    main_in_process(analyze_main, checkpoint, *same_attack, f"hydra.run.dir={tmp_path}")
    report = read_json(tmp_path / "profile_pgd.json")
    last = read_json(folder / "summary.json")["mvl_history"][-1]
    assert (report["measure"], report["layers"], report["samples"]) == (measure, last["layers"], 32)
    for key in ("mu", "sigma", "mean"):
        assert report[key] == pytest.approx(last[key], abs=1e-6)


def test_lsa_analyze_can_use_another_measure(case: tuple[str, Path, str], tmp_path: Path) -> None:
    measure, folder, _ = case
    other = MEASURES[MEASURES.index(measure) - 1]
    checkpoint = f"ckpt_path={folder}/checkpoints/last.ckpt"
    main_in_process(analyze_main, checkpoint, f"measure={other}", f"hydra.run.dir={tmp_path}")
    assert read_json(tmp_path / "profile_pgd.json")["measure"] == other
