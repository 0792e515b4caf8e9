"""lsa-analyze as a user sees it."""

from __future__ import annotations

import csv
import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import call, patch

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import main_as_shown, main_in_process, read_json, run_as_script, train_tiny
from tests.helpers.run_copies import copy_that_runs_code

from lsa_lightning import SustainabilityReport
from lsa_lightning.cli.analyze import main

ATTACKS = ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "trainer.max_epochs=2")
    return folder


def analyze(run: Path, folder: Path, *args: str, figures: bool = False) -> str:
    """What lsa-analyze prints."""
    printed = io.StringIO()
    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    with redirect_stdout(printed):
        main_in_process(
            main, checkpoint, "analysis.attacks.pgd.steps=2", f"hydra.run.dir={folder}", *args, figures=figures
        )
    return printed.getvalue()


def test_the_run_folder_and_the_output(run: Path, tmp_path: Path) -> None:
    printed = analyze(run, tmp_path, figures=True)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.yaml", "profile.csv", *(f"profile_{name}.json" for name in ATTACKS)} <= files
    assert (tmp_path / "figures" / "layer_profile.png").stat().st_size > 0
    assert "<!-- run: train, seed 0 -->" in (tmp_path / "figures" / "layer_profile.svg").read_text()
    assert "Relative error per layer (mean over 40 samples)" in printed
    assert all(name in printed for name in ATTACKS)
    assert "MVL of the trained network under pgd: backbone.act" in printed
    assert f"Run folder: {tmp_path}\n" in printed


def test_the_profile_is_the_one_that_training_wrote(run: Path, tmp_path: Path) -> None:
    analyze(run, tmp_path)
    for name in ATTACKS:
        assert read_json(tmp_path / f"profile_{name}.json") == read_json(run / f"profile_{name}.json")


@pytest.mark.parametrize(("options", "taken"), [((), []), (("num_threads=3",), [call(3)])])
def test_it_takes_as_many_threads_as_it_is_given(
    run: Path, tmp_path: Path, options: tuple[str], taken: list[Any]
) -> None:
    with patch("torch.set_num_threads") as threads:
        analyze(run, tmp_path, *options)
    assert threads.mock_calls == taken


def test_the_table_holds_every_report(run: Path, tmp_path: Path) -> None:
    analyze(run, tmp_path)
    with (tmp_path / "profile.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ATTACKS:
        report = SustainabilityReport.load(tmp_path / f"profile_{name}.json")
        means = [float(row["mean"]) for row in rows if row["attack"] == name]
        torch.testing.assert_close(torch.tensor(means, dtype=torch.float64), report.mean)


def test_the_stored_configuration_has_the_threat_of_the_run(run: Path, tmp_path: Path) -> None:
    analyze(run, tmp_path)
    config = OmegaConf.load(tmp_path / "config.yaml")
    assert config.analysis.attacks.fgsm.eps == config.threat.eps == 0.3
    assert config.ckpt_path == f"{run}/checkpoints/best.ckpt"


def test_eps_and_eta_of_the_help_text(run: Path, tmp_path: Path) -> None:
    printed = analyze(run, tmp_path, "eps=0.1", "analysis.eta=5")
    config = OmegaConf.load(tmp_path / "config.yaml")
    assert {config.analysis.attacks[name].eps for name in ATTACKS} == {0.1}
    assert "MVL of the trained network under pgd: none" in printed
    smaller, larger = (SustainabilityReport.load(path / "profile_fgsm.json") for path in (tmp_path, run))
    assert bool((smaller.mean < larger.mean).all())


def test_layers_of_the_help_text(run: Path, tmp_path: Path) -> None:
    analyze(run, tmp_path, "analysis.layers=[backbone.fc1,backbone.fc2]")
    assert read_json(tmp_path / "profile_pgd.json")["layers"] == ["backbone.fc1", "backbone.fc2"]


@pytest.mark.parametrize(("options", "samples"), [(("split=val",), 32), (("limit_batches=1", "split=test"), 40)])
def test_split_and_batches(run: Path, tmp_path: Path, options: tuple[str, ...], samples: int) -> None:
    analyze(run, tmp_path, *options)
    assert read_json(tmp_path / "profile_pgd.json")["samples"] == samples


def test_an_unknown_split_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected split to be 'val' or 'test', got 'train'"):
        analyze(run, tmp_path, "split=train")


def test_a_missing_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main_as_shown(main, f"ckpt_path={tmp_path}/none.ckpt", f"hydra.run.dir={tmp_path}/out")
    assert f"got {tmp_path}/none.ckpt, which does not exist" in capsys.readouterr().err


def test_a_checkpoint_without_configuration_is_refused(run: Path, tmp_path: Path) -> None:
    stray = tmp_path / "elsewhere" / "checkpoints" / "best.ckpt"
    stray.parent.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "best.ckpt", stray)
    with pytest.raises(ValueError, match=r"expected the run's config\.yaml beside .* use LayerSustainabilityAnalysis"):
        main_in_process(main, f"ckpt_path={stray}", f"hydra.run.dir={tmp_path}/out")


def test_forgetting_the_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main_as_shown(main, f"hydra.run.dir={tmp_path}")
    assert capsys.readouterr().err == "lsa-analyze: expected ckpt_path=RUN/checkpoints/best.ckpt, got none\n"


def test_help_shows_examples_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    run_as_script("analyze", "--help")
    shown = capsys.readouterr().out
    assert "lsa-analyze ckpt_path=RUN/checkpoints/last.ckpt eps=0.1 analysis.eta=0.5" in shown
    assert "_target_: lsa_lightning.runs.stages.AnalysisStage" in shown


def test_a_run_folder_runs_no_code(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, ran = copy_that_runs_code(run, tmp_path)
    refused = r"^lsa-analyze: .*config.yaml: threat.norm: expected data, got 'timeit.timeit'"
    with pytest.raises(SystemExit):
        main_as_shown(main, f"ckpt_path={foreign}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/out")
    assert re.match(refused, capsys.readouterr().err)
    assert not ran.exists()
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_list_of_radii_is_an_analysis_at_each(run: Path, tmp_path: Path) -> None:
    printed = analyze(run, tmp_path / "both", "eps=[0.1,1/5]")
    for eps in ("0.1", "0.2"):
        analyze(run, tmp_path / eps, f"eps={eps}")
        for name in ("profile_pgd.json", "profile_salt.json"):
            assert read_json(tmp_path / "both" / f"eps={eps}" / name) == read_json(tmp_path / eps / name)
        assert OmegaConf.load(tmp_path / "both" / f"eps={eps}" / "config.yaml").threat.eps == float(eps)
        assert f"eps {eps}\n" in printed
    with (tmp_path / "both" / "profile.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [rows[0]["eps"], rows[-1]["eps"]] == ["0.1", "0.2"]
    assert len(rows) == 2 * 3 * len(ATTACKS)
    assert printed.count("Run folder:") == 1
